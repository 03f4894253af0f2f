//! Calls `podbridge_tree::fuzzing::tree_sender`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge_tree::fuzzing::tree_sender(data);
});

//! Calls `podbridge::fuzzing::exec_channels`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::exec_channels(data);
});

//! Calls `podbridge::fuzzing::target_json`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::target_json(data);
});

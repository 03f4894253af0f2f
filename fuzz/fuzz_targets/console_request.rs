//! Calls `podbridge::fuzzing::console_request`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::console_request(data);
});

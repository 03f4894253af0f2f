//! Calls `podbridge::fuzzing::client_frames`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::client_frames(data);
});

//! Calls `podbridge::fuzzing::find_report`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::find_report(data);
});

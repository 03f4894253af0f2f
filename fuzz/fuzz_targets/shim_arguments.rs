//! Calls `podbridge::fuzzing::shim_arguments`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::shim_arguments(data);
});

//! Calls `podbridge::fuzzing::ssh_line`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::ssh_line(data);
});

//! Calls `podbridge::fuzzing::agent_answers`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::agent_answers(data);
});

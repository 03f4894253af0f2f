//! Calls `podbridge_agent::fuzzing::proto_messages`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge_agent::fuzzing::proto_messages(data);
});

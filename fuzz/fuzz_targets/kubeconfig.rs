//! Calls `podbridge::fuzzing::kubeconfig`, which says what it checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    podbridge::fuzzing::kubeconfig(data);
});

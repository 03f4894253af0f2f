//! Nothing: this crate is its tests. `process/` starts both binaries over the local link; `ansible/` and `cluster/` are not Rust.

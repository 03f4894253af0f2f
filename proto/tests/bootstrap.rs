//! Generates `src/gen` anew with protox (`protoc` is not needed) and fails if the committed code differs.
//! To accept a change of the .proto files, run `PODBRIDGE_BLESS=1 cargo test -p podbridge-proto`.
#![allow(clippy::disallowed_methods)] // a test may read its environment

use std::path::PathBuf;

#[test]
fn generated_code_is_up_to_date() {
    // Read at run time, because clones of the repository may share a target directory.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("podbridge/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let descriptors = protox::compile(&files, [&root]).expect("the .proto files compile");

    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gen");
    std::fs::create_dir_all(&out).unwrap();
    tonic_prost_build::configure()
        .out_dir(&out)
        .bytes(".")
        .build_transport(false) // no TCP client: bridges connect over their own links
        .compile_fds(descriptors)
        .expect("code is generated");

    let name = "podbridge.v1.rs";
    let fresh = std::fs::read_to_string(out.join(name)).unwrap();
    let committed = root.join("src/gen").join(name);
    if std::env::var_os("PODBRIDGE_BLESS").is_some() {
        std::fs::write(&committed, &fresh).unwrap();
    }
    let old = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        old == fresh,
        "src/gen/{name} is stale: run PODBRIDGE_BLESS=1 cargo test -p podbridge-proto"
    );
}

//! Checks of the conversions from messages to the domains, for any bytes: no panic. The fuzzer of `fuzz/` calls them with new inputs, the
//! test below with the corpus. Nothing else calls them.

/// The first byte chooses the message.
pub fn proto_messages(data: &[u8]) {
    crate::rpc::check_messages(data);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_is_replayed() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/proto_messages");
        let mut count = 0;
        for file in fs::read_dir(corpus).unwrap() {
            proto_messages(&fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0);
    }
}

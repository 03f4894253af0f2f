//! Users and groups of the system, read from /etc/passwd and /etc/group: the agent is a static binary and has no NSS.
//!
//! Called by the tree copy, which translates owners between two systems.

/// Name and number of a user or group. The name is bytes, as the files prescribe no encoding.
pub type NamedId = (Vec<u8>, u32);

/// Returns all users and all groups, each in the order of its file. A file that cannot be read lists none.
pub fn users_and_groups() -> [Vec<NamedId>; 2] {
    ["/etc/passwd", "/etc/group"].map(|path| {
        let content = std::fs::read(path).unwrap_or_default();
        records(&content).filter_map(|fields| named_id(&fields)).collect()
    })
}

/// Returns the colon-separated fields of each line.
fn records(content: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = content.split(|byte| *byte == b'\n');
    lines.map(|line| line.split(|byte| *byte == b':').collect())
}

/// Returns the first and the third field, which are name and number in both files; `None` for a line that has none.
fn named_id(fields: &[&[u8]]) -> Option<NamedId> {
    Some((fields.first()?.to_vec(), number(fields.get(2)?)?))
}

fn number(field: &[u8]) -> Option<u32> {
    str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_number_are_skipped() {
        let content = b"root:x:0:0:root:/root:/bin/bash\n\n# comment\nsys:x:many:\nz\xff:x:7:\n";
        let ids: Vec<_> = records(content).filter_map(|fields| named_id(&fields)).collect();
        assert_eq!(ids, [(b"root".to_vec(), 0), (b"z\xff".to_vec(), 7)]);
    }
}

//! What people and other programs read of podbridge: messages, logs, the console. Nothing in it may drive a terminal or pretend to be
//! another line. `scene` and the roles call it.

/// Longest line, in bytes: a sentence of podbridge's own with 1 KiB of a pod's words in it.
const MAX_LINE: usize = 2048;

/// Returns what is wrong with a text that people read: control characters other than the end of a line, bytes that are no UTF-8, long
/// lines.
pub(crate) fn faults(text: &[u8]) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = number + 1;
        match std::str::from_utf8(line) {
            Err(_) => faults.push(format!("line {number} is no UTF-8: {}", shown(line))),
            Ok(text) => {
                if let Some(control) = text.chars().find(|character| character.is_control()) {
                    faults.push(format!("line {number} has {control:?}: {}", shown(line)));
                }
            }
        }
        if line.len() > MAX_LINE {
            faults.push(format!("line {number} has {} bytes: {}", line.len(), shown(line)));
        }
    }
    faults
}

/// Returns what is wrong with the stderr of a client: what [`faults`] finds, and lines that podbridge did not begin.
pub(crate) fn client_faults(text: &[u8]) -> Vec<String> {
    let mut faults = faults(text);
    let text = String::from_utf8_lossy(text);
    for line in text.lines().filter(|line| !line.starts_with("podbridge: ")) {
        faults.push(format!(
            "a line does not begin with \"podbridge: \": {}",
            shown(line.as_bytes())
        ));
    }
    faults
}

/// Returns the beginning of a line, escaped.
fn shown(line: &[u8]) -> String {
    line[..line.len().min(200)].escape_ascii().to_string()
}

//! Chooses the lane of a command by its program's name: a program that moves much data must not delay other commands.

use bytes::Bytes;
use podbridge_proto::v1::StartRequest;

use crate::connections::Lane;

/// Programs that Zuul and Ansible run through a pipe to move files and repositories.
const BULK_PROGRAMS: &[&[u8]] = &[
    b"cpio",
    b"git-receive-pack",
    b"git-upload-archive",
    b"git-upload-pack",
    b"rsync",
    b"tar",
];

/// Returns the lane for the command's streams.
pub(crate) fn lane_of(start: &StartRequest) -> Lane {
    let moves_much = start.agent_program || BULK_PROGRAMS.contains(&program_name(&start.argv));
    if moves_much && start.pty.is_none() {
        Lane::Bulk
    } else {
        Lane::Control
    }
}

/// Returns the name of the program, also if a shell is to run it.
fn program_name(argv: &[Bytes]) -> &[u8] {
    let base = |word: &'_ [u8]| word.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let word = match argv {
        [shell, option, script] if shell[base(shell)..] == *b"sh" && option == "-c" => {
            script.split(|byte| *byte == b' ').next().unwrap_or_default()
        }
        [program, ..] => program,
        [] => &[],
    };
    &word[base(word)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_moves_much_data_is_recognised_by_its_program() {
        let lane = |words: &[&str]| {
            lane_of(&StartRequest {
                argv: words.iter().map(|word| word.to_string().into()).collect(),
                ..StartRequest::default()
            })
        };
        assert_eq!(lane(&["/usr/bin/git-receive-pack", "/zuul/glance"]), Lane::Bulk);
        assert_eq!(lane(&["rsync", "--server"]), Lane::Bulk);
        assert_eq!(lane(&["/bin/sh", "-c", "/usr/bin/rsync --server . /"]), Lane::Bulk);
        assert_eq!(lane(&["/bin/sh", "-c", "cd / && tar c ."]), Lane::Control);
        assert_eq!(lane(&["git", "status"]), Lane::Control);
        let own = StartRequest {
            agent_program: true,
            ..StartRequest::default()
        };
        assert_eq!(lane_of(&own), Lane::Bulk);
    }
}

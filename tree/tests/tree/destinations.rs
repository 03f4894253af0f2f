//! Destinations that exist already and that this process may not treat as it likes: other users' directories, mount points, read-only
//! mounts, file systems of the kernel. One table; a row is a shell script that prepares, and one that looks at the result.
//!
//! The rows need root, to mount and to become other users; without root they are skipped. Each runs in a mount namespace of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use podbridge_proto::v1::TreeOpen;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, UnshareFlags, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::harness::{Direction, copy, options};

struct Row {
    name: &'static str,
    /// Runs as root in a directory with an empty `from` and no `to`.
    prepare: &'static str,
    /// User that copies from `from` to `to`.
    user: User,
    delete: bool,
    /// Prints `expected` after each of two copies.
    look: &'static str,
    expected: &'static str,
    /// Part of each warning of the first copy, in any order. Other problems fail the row.
    warnings: &'static [&'static str],
    /// Whether the second copy, too, changes something.
    repeats: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum User {
    Root,
    /// Root without any capability to give files away.
    RootWithoutChown,
    /// A user with this id and no other group.
    Other(u32),
}

const BASE: Row = Row {
    name: "",
    prepare: "",
    user: User::Root,
    delete: false,
    look: "true",
    expected: "",
    warnings: &[],
    repeats: false,
};

const ROWS: &[Row] = &[
    Row {
        name: "a destination directory keeps mode and owner",
        prepare: "mkdir to; chown 7:8 to; chmod 1777 to; chmod 755 from; echo x >from/f",
        look: "stat -c '%a %u %g' to; cat to/f",
        expected: "1777 7 8\nx\n",
        ..BASE
    },
    Row {
        name: "a destination directory keeps its time if nothing is made in it",
        prepare: "mkdir -p from/d to/d; echo x >from/d/f; touch -d @1000000000 from; touch -d @1100000000 to",
        look: "stat -c %Y to",
        expected: "1100000000\n",
        ..BASE
    },
    Row {
        name: "a new destination directory gets mode and time of the source",
        prepare: "chmod 750 from; echo x >from/f; touch -d @1000000000 from",
        look: "stat -c '%a %Y' to",
        expected: "750 1000000000\n",
        ..BASE
    },
    Row {
        name: "a directory of the user without write permission gets it back",
        prepare: "mkdir to; chown 7 to; chmod 500 to; echo x >from/f",
        user: User::Other(7),
        look: "stat -c %a to; cat to/f",
        expected: "500\nx\n",
        ..BASE
    },
    Row {
        name: "a user copies into a directory that he may write to but not change",
        prepare: "mkdir to; chmod 1777 to; mkdir from/d; echo x >from/d/f",
        user: User::Other(7),
        delete: true,
        look: "stat -c '%a %u' to; cat to/d/f",
        expected: "1777 0\nx\n",
        ..BASE
    },
    Row {
        name: "a user copies into a directory that he may not even list",
        prepare: "mkdir to; chmod 1733 to; mkdir from/d; echo x >from/d/f; echo y >from/g",
        user: User::Other(7),
        look: "stat -c '%a %u' to; cat to/d/f to/g",
        expected: "1733 0\nx\ny\n",
        ..BASE
    },
    Row {
        name: "a directory below the destination that is another user's keeps its time",
        prepare: "mkdir -p from/d to/d; chmod 777 to/d from/d; chmod 755 to; echo x >from/d/f",
        user: User::Other(7),
        look: "stat -c '%a %u' to/d; cat to/d/f",
        expected: "777 0\nx\n",
        warnings: &["d: belongs to another user"],
        ..BASE
    },
    Row {
        name: "a mount point below the destination is kept, and what is in it",
        prepare: "mkdir -p to/gone to/a/volume vol; echo x >vol/f; echo x >to/gone/f; mount --bind vol to/a/volume",
        delete: true,
        look: "ls to to/a/volume",
        expected: "to:\na\n\nto/a/volume:\nf\n",
        warnings: &["a/volume: is a mount point"],
        ..BASE
    },
    Row {
        name: "nothing is deleted in a mount that the source has as a directory",
        prepare: "mkdir -p to/volume from/volume/d vol/d; echo x >vol/f; echo x >vol/d/g; echo n >from/volume/n
                  mount --bind vol to/volume",
        delete: true,
        look: "ls to/volume to/volume/d",
        expected: "to/volume:\nd\nf\nn\n\nto/volume/d:\ng\n",
        warnings: &["volume: is another mount", "volume/d: is another mount"],
        ..BASE
    },
    Row {
        name: "a mount that is the destination is emptied",
        prepare: "mkdir to vol; echo x >vol/f; mount --bind vol to",
        delete: true,
        look: "ls to",
        expected: "",
        ..BASE
    },
    Row {
        name: "a file that is a mount point is kept",
        prepare: "mkdir to; echo x >f; touch to/f to/g; mount --bind f to/f",
        delete: true,
        look: "ls to",
        expected: "f\n",
        warnings: &["f: is a mount point"],
        ..BASE
    },
    Row {
        name: "nothing is deleted in /proc",
        prepare: "ln -s /proc/self/fdinfo to",
        delete: true,
        warnings: &[": is another mount than the destination, or a file system of the kernel"],
        ..BASE
    },
    Row {
        name: "nothing is deleted in /sys",
        prepare: "ln -s /sys/kernel to",
        delete: true,
        warnings: &[": is another mount than the destination, or a file system of the kernel"],
        ..BASE
    },
    Row {
        name: "a file that is a mount point is written in place",
        prepare: "mkdir to; echo old content >hosts; chmod 640 hosts; touch to/hosts; mount --bind hosts to/hosts
                  echo new >from/hosts; chmod 640 from/hosts",
        look: "cat to/hosts hosts; stat -c %a hosts; ls -A to",
        expected: "new\nnew\n640\nhosts\n",
        warnings: &["hosts: was written in place"],
        ..BASE
    },
    Row {
        name: "a file in a directory on a read-only mount is written in place",
        prepare:
            "mkdir to; echo old >rw; touch to/f; mount --bind to to; mount --bind rw to/f; mount -o remount,ro,bind to
                  echo new >from/f",
        look: "cat rw",
        expected: "new\n",
        warnings: &["f: was written in place"],
        ..BASE
    },
    Row {
        name: "a file that the user may write in a directory that he may not is written in place",
        prepare: "mkdir to; echo old >to/f; chown 7 to/f; chmod 600 to/f; echo new >from/f; chmod 600 from/f; chown 7 from/f",
        user: User::Other(7),
        look: "cat to/f; stat -c '%a %u' to/f",
        expected: "new\n600 7\n",
        warnings: &["f: was written in place"],
        ..BASE
    },
    Row {
        name: "another user's file in a directory with the sticky bit is written in place",
        prepare: "mkdir to; chmod 1777 to; echo old >to/f; chmod 666 to/f; echo new >from/f",
        user: User::Other(7),
        look: "cat to/f; stat -c '%a %u' to/f; ls -A to",
        expected: "new\n666 0\nf\n",
        warnings: &["f: was written in place"],
        // The time is the other user's, so the copy cannot remember that it is done.
        repeats: true,
        ..BASE
    },
    Row {
        name: "root without the right to give files away is quiet at the second run",
        prepare: "mkdir from/d; echo x >from/d/f; ln -s f from/d/l; mkfifo from/d/p; chown -hR 7:7 from/d",
        user: User::RootWithoutChown,
        look: "stat -c '%u %g' to/d to/d/f to/d/l",
        expected: "0 0\n0 0\n0 0\n",
        ..BASE
    },
];

#[test]
fn destinations_that_exist_are_treated_with_care() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let failures: Vec<_> = ROWS.iter().filter_map(|row| run(row).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs a row on a thread of its own, because its mounts and user are the thread's.
fn run(row: &'static Row) -> Result<(), String> {
    let failed = |why: String| format!("{}: {why}", row.name);
    let test = thread::spawn(move || {
        // The safe form is deprecated for flags that close file descriptors; a mount namespace closes none.
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
        shell(Path::new("/"), "mount --make-rprivate /").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let dir = dir.path();
        shell(dir, &format!("umask 022; mkdir from; {}", row.prepare))?;
        for is_first in [true, false] {
            let (from, to) = (dir.join("from"), dir.join("to"));
            let copied = as_user(row.user, move || {
                let open = TreeOpen {
                    delete: row.delete,
                    preserve_root_attributes: false,
                    ..options()
                };
                copy(&from, &to, Direction::Push, &open)
            });
            let mut expected = row.warnings.to_vec();
            for problem in &copied.problems {
                let text = format!("{}: {}", String::from_utf8_lossy(&problem.path), problem.what);
                let at = expected.iter().position(|warning| text.contains(warning));
                match at.filter(|_| problem.warning) {
                    Some(at) => drop(expected.remove(at)),
                    None => return Err(format!("unexpected problem: {text}")),
                }
            }
            if is_first && !expected.is_empty() {
                return Err(format!("missing warnings: {expected:?}"));
            }
            copied.result.map_err(|error| error.to_string())?;
            if !is_first && copied.changes.is_empty() == row.repeats {
                return Err(format!("changes of the second copy: {:?}", copied.changes));
            }
            let seen = shell(dir, row.look)?;
            if seen != row.expected {
                return Err(format!("{seen:?} instead of {:?}", row.expected));
            }
        }
        shell(
            dir,
            "for mount in to/volume to/a/volume to/hosts to/f to; do umount $mount 2>/dev/null || true; done",
        )?;
        Ok(())
    });
    test.join().map_err(|_| failed("panicked".into()))?.map_err(failed)
}

fn as_user<T: Send + 'static>(user: User, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        match user {
            User::Root => {}
            User::RootWithoutChown => {
                let mut sets = capabilities(None).unwrap();
                sets.effective.remove(CapabilitySet::CHOWN);
                set_capabilities(None, sets).unwrap();
            }
            User::Other(id) => {
                let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
            }
        }
        work()
    });
    thread.join().unwrap()
}

/// Runs a script in a directory; returns its output.
fn shell(directory: &Path, script: &str) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! What gives rights comes out of a pod only when the caller asks for it. Into a pod everything is copied, as by rsync -a.
//!
//! Devices and capabilities need root; without root their rows are left out.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use podbridge_proto::v1::TreeOpen;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lsetxattr, makedev, mknodat};
use rustix::process::geteuid;

use crate::harness::{Direction, copy, options};

/// `cap_setuid=ep` as the kernel stores it (linux/capability.h, VFS_CAP_REVISION_2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Files and their modes in the source.
const FILES: [(&str, u32); 4] = [
    ("plain", 0o640),
    ("setuid", 0o4755),
    ("setgid", 0o2755),
    ("all", 0o7777),
];

fn has_capability(path: &Path) -> bool {
    lgetxattr(path, "security.capability", &mut [0; 64][..]).is_ok()
}

#[test]
fn rights_come_out_of_a_pod_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("shared")).unwrap();
    fs::set_permissions(from.join("shared"), Permissions::from_mode(0o2775)).unwrap();
    for (name, mode) in FILES {
        fs::write(from.join(name), name).unwrap();
        fs::set_permissions(from.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let is_root = geteuid().is_root();
    if is_root {
        mknodat(
            CWD,
            from.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(1, 3),
        )
        .unwrap();
        for name in ["plain", "setuid"] {
            lsetxattr(from.join(name), "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
            lsetxattr(from.join(name), "trusted.x", b"y", XattrFlags::empty()).unwrap();
            lsetxattr(from.join(name), "user.x", b"y", XattrFlags::empty()).unwrap();
        }
    }
    for (direction, no_privileges) in [
        (Direction::Pull, true),
        (Direction::Pull, false),
        (Direction::Push, false),
    ] {
        let to = dir.path().join(format!("{direction:?}-{no_privileges}"));
        let open = TreeOpen {
            no_privileges,
            ..options()
        };
        let copied = copy(&from, &to, direction, &open);
        copied.result.unwrap();
        for (name, mode) in FILES {
            let expected = if no_privileges { mode & 0o1777 } else { mode };
            assert_eq!(
                fs::metadata(to.join(name)).unwrap().mode() & 0o7777,
                expected,
                "{direction:?} {name}"
            );
        }
        assert_eq!(fs::metadata(to.join("shared")).unwrap().mode() & 0o7777, 0o2775);
        let warnings: Vec<_> = copied.problems.iter().map(|problem| problem.what.as_str()).collect();
        let told = |words: &str| warnings.iter().filter(|what| what.contains(words)).count();
        assert!(copied.problems.iter().all(|problem| problem.warning), "{warnings:?}");
        assert_eq!(told("bit was left out"), usize::from(no_privileges), "{warnings:?}");
        if is_root {
            let device = fs::symlink_metadata(to.join("null"));
            assert_eq!(
                device.is_ok_and(|device| device.file_type().is_char_device()),
                !no_privileges
            );
            assert_eq!(told("skipped: a device"), usize::from(no_privileges), "{warnings:?}");
            for name in ["plain", "setuid"] {
                assert_eq!(has_capability(&to.join(name)), !no_privileges, "{name}");
                let read = |attribute| lgetxattr(to.join(name), attribute, &mut [0; 8][..]).is_ok();
                assert_eq!((read("trusted.x"), read("user.x")), (!no_privileges, true), "{name}");
            }
        }
        // A second copy finds nothing to do.
        let again = copy(&from, &to, direction, &open).result.unwrap();
        assert_eq!((again.new, again.changed, again.attributes), (0, 0, 0));
    }
}

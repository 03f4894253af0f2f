//! Random trees, made and changed by a seeded generator.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lsetxattr, makedev, mknodat,
    utimensat,
};

/// Returns a name of any bytes but `/` and NUL.
pub(crate) fn name(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.u8(..20) {
        0 => 255,
        _ => rng.usize(1..12),
    };
    let byte = |rng: &mut Rng| match rng.u8(..4) {
        0 => rng.choice(1..=255u8).filter(|byte| *byte != b'/').unwrap_or(b'\n'),
        _ => rng.alphanumeric() as u8,
    };
    let name: Vec<u8> = (0..length).map(|_| byte(rng)).collect();
    match &name[..] {
        b"." | b".." => b"dots".to_vec(),
        _ => name,
    }
}

/// Fills a directory. The times of directories are set last, because each new entry changes them.
pub(crate) fn fill(root: &Path, rng: &mut Rng, count: usize) {
    fs::create_dir_all(root).unwrap();
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for _ in 0..count {
        // Often the last directory, so that the tree becomes deep.
        let parent = match rng.u8(..3) {
            0 => directories.last().unwrap().clone(),
            _ => directories[rng.usize(..directories.len())].clone(),
        };
        let path = parent.join(OsStr::from_bytes(&name(rng)));
        if path.as_os_str().len() > 3000 || path.symlink_metadata().is_ok() {
            continue;
        }
        match rng.u8(..20) {
            0..=4 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            5..=7 => symlink(OsStr::from_bytes(&name(rng)), &path).unwrap(),
            8 if !files.is_empty() => fs::hard_link(&files[rng.usize(..files.len())], &path).unwrap(),
            9 => special(&path, rng),
            _ => {
                content(&path, rng);
                files.push(path.clone());
            }
        }
        attributes(&path, rng);
    }
    for directory in directories.iter().rev() {
        attributes(directory, rng);
    }
}

fn special(path: &Path, rng: &mut Rng) {
    let (kind, device) = match rng.u8(..4) {
        0 => (FileType::CharacterDevice, makedev(1, 3)),
        1 => (FileType::Socket, 0),
        _ => (FileType::Fifo, 0),
    };
    mknodat(CWD, path, kind, Mode::RUSR, device).unwrap();
}

fn content(path: &Path, rng: &mut Rng) {
    let mut file = File::create(path).unwrap();
    match rng.u8(..10) {
        0 => {}
        1 => {
            // Holes before, between and after data.
            file.seek(SeekFrom::Start(rng.u64(..3) * 65_536)).unwrap();
            file.write_all(b"data").unwrap();
            file.seek(SeekFrom::Start(1 << 20)).unwrap();
            file.write_all(&[7; 5000]).unwrap();
            file.set_len((1 << 20) + rng.u64(5000..200_000)).unwrap();
        }
        2 => {
            let mut data = vec![0; rng.usize(100_000..700_000)];
            rng.fill(&mut data);
            file.write_all(&data).unwrap();
        }
        _ => {
            let mut data = vec![0; rng.usize(1..9000)];
            rng.fill(&mut data);
            file.write_all(&data).unwrap();
        }
    }
}

fn attributes(path: &Path, rng: &mut Rng) {
    let is_link = path.symlink_metadata().unwrap().is_symlink();
    if rng.u8(..4) == 0 {
        let owner = (Some(Uid::from_raw(rng.u32(..3))), Some(Gid::from_raw(rng.u32(..3))));
        chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    if !is_link && rng.bool() {
        fs::set_permissions(path, fs::Permissions::from_mode(rng.u32(..0o10000))).unwrap();
    }
    let kind = path.symlink_metadata().unwrap().file_type();
    if (kind.is_file() || kind.is_dir()) && rng.u8(..5) == 0 {
        // Some file systems have no extended attributes.
        let _ = lsetxattr(
            path,
            format!("user.{}", rng.u8(..3)),
            &[rng.u8(..); 20],
            XattrFlags::empty(),
        );
    }
    let seconds = match rng.u8(..3) {
        0 => -rng.i64(1..2_000_000_000),
        _ => rng.i64(0..4_000_000_000),
    };
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: rng.i64(0..1_000_000_000),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Changes some paths: removes them, or changes their type, content or attributes.
pub(crate) fn change_randomly(root: &Path, rng: &mut Rng) {
    let mut paths: Vec<PathBuf> = super::harness::snapshot(root)
        .into_keys()
        .filter(|path| path != Path::new(""))
        .collect();
    rng.shuffle(&mut paths);
    for path in paths.iter().take(paths.len() / 3) {
        let path = root.join(path);
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        match rng.u8(..5) {
            0 | 1 => attributes(&path, rng),
            2 if meta.is_file() => content(&path, rng),
            _ => {
                if meta.is_dir() {
                    fs::remove_dir_all(&path).unwrap();
                } else {
                    fs::remove_file(&path).unwrap();
                }
                match rng.u8(..4) {
                    0 => fill(&path, rng, 6),
                    1 => content(&path, rng),
                    2 => symlink("/etc", &path).unwrap(),
                    _ => {}
                }
            }
        }
    }
}

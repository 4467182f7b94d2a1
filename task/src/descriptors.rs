//! Descriptors of inputs: opened, typed into memory, or refused with a reason.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use task_proto::limits::TYPED;

use crate::exit::{Failure, InputKind, Place};

/// Descriptors that this process needs beside its inputs.
const OTHER_DESCRIPTORS: u64 = 64;

/// Not CTTY: a terminal given as a file must not become this process's own.
pub fn open(path: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
}

pub fn is_of_type(file: BorrowedFd<'_>, wanted: FileType) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

/// The null device is character device 1:3 (Documentation/admin-guide/devices.txt).
pub fn is_null_device(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// Reads a terminal to Ctrl-D, into a memfd as [`sealed`] makes it.
pub fn typed(name: &str, terminal: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match retry_on_intr(|| rustix::io::read(terminal, &mut buffer)) {
            Ok(0) => return sealed(&text),
            Ok(count) if text.len() + count > TYPED => {
                return Err(too_large(name, format!("more than {TYPED} bytes typed; put them in a file")));
            }
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(errno) => return Err(cannot_open(name, errno)),
        }
    }
}

/// A memfd with this text, sealed for good and rewound: it can be read again and again.
pub fn sealed(text: &[u8]) -> Result<OwnedFd, Failure> {
    let make = || -> std::io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut memory = File::from(rustix::fs::memfd_create("task-input", flags)?);
        memory.write_all(text)?;
        memory.rewind()?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok(memory.into())
    };
    make().map_err(|error| Failure::Internal(format!("cannot put the numbers into memory: {error}")))
}

/// Whether there is room for another descriptor beside this many.
pub fn has_room_beside(files: usize) -> bool {
    getrlimit(Resource::Nofile).current.is_none_or(|limit| files as u64 + OTHER_DESCRIPTORS < limit)
}

/// Raises the soft limit of open files to the hard one when this many inputs might need it. The worker inherits it.
pub fn make_room_for(files: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|limit| files as u64 + OTHER_DESCRIPTORS > limit) {
        // Refused, opening says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

pub fn cannot_open(name: &str, errno: Errno) -> Failure {
    match errno {
        Errno::NOENT => Failure::Input {
            kind: InputKind::NotFound,
            message: "no such file".into(),
            place: Place::of(name),
        },
        Errno::MFILE | Errno::NFILE => too_many_files(name),
        Errno::ACCESS => unreadable(name, "permission denied"),
        Errno::NXIO => unreadable(name, "a socket or a device that is not there cannot be read as a file"),
        _ => unreadable(name, &format!("cannot be read: {}", std::io::Error::from(errno))),
    }
}

pub fn unreadable(name: &str, message: &str) -> Failure {
    Failure::Input { kind: InputKind::Unreadable, message: message.into(), place: Place::of(name) }
}

pub fn too_many_files(name: &str) -> Failure {
    let limit = getrlimit(Resource::Nofile).current.map_or("the system's".into(), |limit| limit.to_string());
    too_large(
        name,
        format!("too many files for the limit of open files ({limit}); join them: cat FILE… | task"),
    )
}

pub fn too_large(name: &str, message: String) -> Failure {
    Failure::Input { kind: InputKind::TooLarge, message, place: Place::of(name) }
}

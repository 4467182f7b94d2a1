//! The run directory: where one run keeps its socket, and how the next start finds out that a run is over.
//!
//! A run makes `tmp-NONCE`, locks `lock` in it, and renames it to `run-PID-NONCE`. So whatever is called `run-*` has a lock
//! that its owner holds for as long as it lives, and whoever can take that lock may clear the directory away: nothing
//! that a SIGKILL leaves behind stays. Everything goes through descriptors of directories, never through long paths, and
//! nothing is removed that is not known.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fstat, mkdirat, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use task_proto::limits::{SWEEP, UNFINISHED};

/// Name of the socket in a run directory.
pub const SOCKET: &str = "rpc.sock";
/// Name of the lock in a run directory, and in the base directory of a service.
pub const LOCK: &str = "lock";
/// Names to try: one that is taken, or cleared away by a sweep before it was locked, costs one.
const TRIES: usize = 8;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why there is no run directory.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A call to the system failed.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// What was to be done, as in "cannot make".
        doing: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system says.
        cause: Errno,
    },
    /// Something else is there.
    #[error("{} is {kind} of user {owner}, not a directory: choose another with --runtime-dir", path.display())]
    NoDirectory {
        /// The place.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
        /// Its owner.
        owner: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to user {us}: choose another with --runtime-dir", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may write in it.
    #[error(
        "others may write in {} (mode {mode:03o}): chmod go-w it, or choose another with --runtime-dir",
        path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// The checked directory in which runs make theirs: it is ours, and only we write in it.
#[derive(Debug)]
pub struct Base {
    fd: OwnedFd,
    path: PathBuf,
}

/// The directory of one run. Dropped, it is removed.
#[derive(Debug)]
pub struct RunDir {
    base: Base,
    name: String,
    fd: OwnedFd,
    /// Held until the directory is gone.
    _lock: OwnedFd,
    removed: bool,
}

impl Base {
    /// Finds it, or makes it with mode 0700: `chosen` (from `--runtime-dir` or `TASK_RUNTIME_DIR`), else
    /// `$XDG_RUNTIME_DIR/task`, else `/tmp/task-UID`. An `XDG_RUNTIME_DIR` that is not ours to write in is passed over; any
    /// other that will not do is an error.
    pub fn open(chosen: Option<&Path>) -> Result<Self, RunDirError> {
        Base::at(&Base::place(chosen))
    }

    /// Opens it as [`Base::open`] does, but makes nothing: `None` where it is not there. Root may look into anybody's
    /// that was chosen, as a service answers root like its own user.
    pub fn existing(chosen: Option<&Path>) -> Result<Option<Self>, RunDirError> {
        let whose = if chosen.is_some() && rustix::process::geteuid().is_root() {
            Whose::Anybodys
        } else {
            Whose::Ours
        };
        match Base::checked(&Base::place(chosen).components().collect::<PathBuf>(), whose) {
            Err(RunDirError::Io { cause: Errno::NOENT, .. }) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Where [`Base::open`] finds it, or makes it.
    pub fn place(chosen: Option<&Path>) -> PathBuf {
        place(chosen, std::env::var_os("XDG_RUNTIME_DIR").as_deref(), Path::new("/tmp"))
    }

    fn at(path: &Path) -> Result<Self, RunDirError> {
        // A slash or a dot at the end would follow a symbolic link after all.
        let path: PathBuf = path.components().collect();
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            // It is there, but what it is the check says better.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|error| fault("make", &path)(errno(&error)))?,
        }
        Base::checked(&path, Whose::Ours)
    }

    fn checked(path: &Path, whose: Whose) -> Result<Self, RunDirError> {
        let fd = check(path, whose)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Base { fd, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Removes what runs that are over have left here, and says how many directories that were. Any number of
    /// sweeps may run at once, and beside starts.
    pub fn sweep(&self) -> usize {
        self.sweep_at(SystemTime::now())
    }

    fn sweep_at(&self, now: SystemTime) -> usize {
        let Ok(entries) = Dir::read_from(&self.fd) else { return 0 };
        let names = entries.flatten().filter_map(|entry| Kind::of(entry.file_name().to_str().ok()?));
        names.take(SWEEP).filter(|(name, kind)| self.sweep_one(name, *kind, now).is_ok()).count()
    }

    fn sweep_one(&self, name: &str, kind: Kind, now: SystemTime) -> Result<(), Errno> {
        let dir = openat(&self.fd, name, DIRECTORY, Mode::empty())?;
        let stat = fstat(&dir)?;
        if stat.st_uid != rustix::process::geteuid().as_raw()
            || (kind == Kind::Unfinished && !stale(&stat, now))
        {
            return Err(Errno::BUSY);
        }
        match openat(
            &dir,
            LOCK,
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        ) {
            Ok(lock) => {
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                // Another sweep may have cleared it while we took the lock: then the lock is of nothing.
                if !is_there(&lock, &dir)? {
                    return Err(Errno::STALE);
                }
                clear(&dir)?;
                unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            }
            // Killed before it made its lock, or after it removed it. Anything else in it is not ours to know.
            Err(Errno::NOENT) => unlinkat(&self.fd, name, AtFlags::REMOVEDIR),
            Err(error) => Err(error),
        }
    }
}

impl RunDir {
    /// Makes the directory of this run, locked.
    pub fn create(base: Base) -> Result<Self, RunDirError> {
        let mut tries = 0;
        loop {
            match RunDir::try_create(&base) {
                Ok((name, fd, lock)) => return Ok(RunDir { base, name, fd, _lock: lock, removed: false }),
                Err(Errno::EXIST | Errno::NOENT | Errno::AGAIN) if tries < TRIES => tries += 1,
                Err(error) => return Err(fault("make a directory in", &base.path)(error)),
            }
        }
    }

    fn try_create(base: &Base) -> Result<(String, OwnedFd, OwnedFd), Errno> {
        let nonce = format!("{:08x}", rand::random::<u32>());
        let (unfinished, name) = (format!("tmp-{nonce}"), format!("run-{}-{nonce}", std::process::id()));
        mkdirat(&base.fd, &unfinished, Mode::RWXU)?;
        let finish = || {
            let fd = openat(&base.fd, &unfinished, DIRECTORY, Mode::empty())?;
            let new = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lock = openat(&fd, LOCK, new, Mode::RUSR | Mode::WUSR)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            renameat_with(&base.fd, &unfinished, &base.fd, &name, RenameFlags::NOREPLACE)?;
            Ok((fd, lock))
        };
        match finish() {
            Ok((fd, lock)) => Ok((name, fd, lock)),
            Err(error) => {
                // Best effort: what stays is swept in an hour.
                if let Ok(fd) = openat(&base.fd, &unfinished, DIRECTORY, Mode::empty()) {
                    let _ = clear(&fd);
                }
                let _ = unlinkat(&base.fd, &unfinished, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    /// Where it is, to show.
    pub fn path(&self) -> PathBuf {
        self.base.path.join(&self.name)
    }

    /// Its descriptor, through which it is used.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The run's name: eight hexadecimal digits.
    pub fn run(&self) -> &str {
        self.name.rsplit('-').next().unwrap_or_default()
    }

    /// Removes it: the socket, if it is still there, then the lock, then the directory.
    pub fn remove(mut self) -> Result<(), RunDirError> {
        self.remove_once()
    }

    fn remove_once(&mut self) -> Result<(), RunDirError> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        let removed = clear(&self.fd).and_then(|()| unlinkat(&self.base.fd, &self.name, AtFlags::REMOVEDIR));
        // It may be gone already: `rm -r` of somebody who tidies up.
        if removed == Err(Errno::NOENT) { Ok(()) } else { removed.map_err(fault("remove", &self.path())) }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = self.remove_once() {
            tracing::warn!("{error}");
        }
    }
}

/// What a name in the base directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run,
    Unfinished,
}

impl Kind {
    /// `run-PID-NONCE`, `tmp-NONCE`, or nothing of ours.
    fn of(name: &str) -> Option<(String, Kind)> {
        let nonce = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let kind = match name.split_once('-')? {
            ("run", rest)
                if rest.split_once('-').is_some_and(|(pid, n)| pid.parse::<u32>().is_ok() && nonce(n)) =>
            {
                Kind::Run
            }
            ("tmp", rest) if nonce(rest) => Kind::Unfinished,
            _ => return None,
        };
        Some((name.to_owned(), kind))
    }
}

/// Where the base directory is, or would be.
fn place(chosen: Option<&Path>, xdg: Option<&OsStr>, tmp: &Path) -> PathBuf {
    if let Some(path) = chosen {
        return path.to_owned();
    }
    let ours = |path: &&Path| path.is_absolute() && check(path, Whose::Ours).is_ok() && writable(path);
    match xdg.map(Path::new).filter(ours) {
        Some(xdg) => xdg.join("task"),
        None => tmp.join(format!("task-{}", rustix::process::geteuid().as_raw())),
    }
}

/// Whether this lock is still the one by that name.
fn is_there(lock: &OwnedFd, dir: &OwnedFd) -> Result<bool, Errno> {
    let (held, there) = (fstat(lock)?, statat(dir, LOCK, AtFlags::SYMLINK_NOFOLLOW)?);
    Ok((held.st_dev, held.st_ino) == (there.st_dev, there.st_ino))
}

/// Removes the socket and then the lock of a directory whose lock we hold. If there is anything else in it, or
/// something else by the socket's name, nothing is removed.
fn clear(dir: &OwnedFd) -> Result<(), Errno> {
    let mut socket = false;
    for entry in Dir::read_from(dir)? {
        match entry?.file_name().to_bytes() {
            b"." | b".." | b"lock" => {}
            name if name == SOCKET.as_bytes() => socket = true,
            _ => return Err(Errno::NOTEMPTY),
        }
    }
    if socket {
        let stat = statat(dir, SOCKET, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(Errno::NOTEMPTY);
        }
        unlinkat(dir, SOCKET, AtFlags::empty())?;
    }
    unlinkat(dir, LOCK, AtFlags::empty())
}

/// Whose a directory may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Anybodys,
}

/// Opens a directory that must belong to such a user, with nobody else allowed to write in it.
fn check(path: &Path, whose: Whose) -> Result<OwnedFd, RunDirError> {
    let fd = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|cause| no_directory(path, cause))?;
    let stat = fstat(&fd).map_err(fault("use", path))?;
    let us = rustix::process::geteuid().as_raw();
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != us && whose == Whose::Ours {
        return Err(RunDirError::Foreign { path: path.to_owned(), owner: stat.st_uid, us });
    }
    if mode & 0o022 != 0 {
        return Err(RunDirError::Writable { path: path.to_owned(), mode });
    }
    Ok(fd)
}

/// Why it cannot be opened: often, as somebody has put something else in its place.
fn no_directory(path: &Path, cause: Errno) -> RunDirError {
    if let (Errno::NOTDIR | Errno::LOOP, Ok(there)) = (cause, rustix::fs::lstat(path)) {
        let kind = match FileType::from_raw_mode(there.st_mode) {
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            _ => "something else",
        };
        return RunDirError::NoDirectory { path: path.to_owned(), kind, owner: there.st_uid };
    }
    fault("use", path)(cause)
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Whether a directory was last changed more than [`UNFINISHED`] ago. One from the future is not.
fn stale(stat: &Stat, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    now.saturating_sub(stat.st_mtime) > UNFINISHED.as_secs() as i64
}

fn fault(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> RunDirError {
    move |cause| RunDirError::Io { doing, path: path.to_owned(), cause }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;

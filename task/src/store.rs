//! The log files in `$XDG_STATE_HOME/task/log`: `runs.jsonl`, to which every one-shot run appends its records at its
//! end, `serve.jsonl`, to which a service appends them as they come, and the older files that these were rotated to,
//! `runs.jsonl.1` (the younger) and on.
//!
//! Any number of processes may write at once. A writer holds the lock of the file it writes to; whoever finds, with the lock
//! in hand, that the name has passed on to another file, opens that one. Only the holder of the current file's lock
//! rotates.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use task_proto::limits::{LOG_FILE, LOG_FILES, LOG_LOCK, LOG_LOCK_RETRY};

/// The log of one-shot runs.
pub const RUNS: &str = "runs.jsonl";
/// The log of `task serve`.
pub const SERVE: &str = "serve.jsonl";

/// The directory of the log files.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no place for it.
    #[error("no place for the log: neither XDG_STATE_HOME nor HOME is an absolute path")]
    NoHome,
    /// Reading failed midway.
    #[error("cannot read the log: {0}")]
    Read(io::Error),
    /// A call to the system failed.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// What was to be done, as in "cannot write".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

impl Store {
    /// The user's log: `$XDG_STATE_HOME/task/log`, by default `~/.local/state/task/log`. Nothing is made yet.
    pub fn locate() -> Result<Self, StoreError> {
        Store::under(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
    }

    fn under(state: Option<OsString>, home: Option<OsString>) -> Result<Self, StoreError> {
        let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute(state).or_else(|| absolute(home).map(|home| home.join(".local/state")));
        Ok(Store { dir: state.ok_or(StoreError::NoHome)?.join("task/log") })
    }

    /// A log in this directory.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Store { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends whole lines to the file of this name in one write, so that they stay together; rotates it first if it
    /// would grow beyond [`LOG_FILE`]. All or nothing is written.
    pub fn append(&self, name: &str, lines: &[u8]) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(name);
        loop {
            let file = match open_to_write(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_dir()?;
                    open_to_write(&path)
                }
                file => file,
            };
            let file = file.map_err(fault("open", &path))?;
            lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(fault("lock", &path))?;
            if !is_current(&file, &path).map_err(fault("look at", &path))? {
                continue; // rotated while we waited
            }
            let length = file.metadata().map_err(fault("look at", &path))?.len();
            if length > 0 && length + lines.len() as u64 > LOG_FILE {
                rotate(&path).map_err(fault("rotate", &path))?;
                continue;
            }
            return write_all_or_nothing(file, length, lines).map_err(fault("write", &path));
        }
    }

    /// Opens the file of this name and those it was rotated to, to be read.
    pub fn open(&self, name: &'static str) -> Result<Log, StoreError> {
        let current = self.dir.join(name);
        loop {
            let before = identity(&current).map_err(fault("look at", &current))?;
            let mut files: Vec<LogFile> = Vec::new();
            // Rotation gives files higher numbers: going up, one may come twice but none is missed.
            for path in (0..LOG_FILES).map(|number| numbered(&current, number)) {
                let file = match open_to_read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    file => file.and_then(LogFile::new).map_err(fault("open", &path))?,
                };
                if files.iter().all(|other| other.id != file.id) {
                    files.push(file);
                }
            }
            // Yet a younger one may have slipped in among the older. Ten megabytes take longer than this, so try again.
            if identity(&current).map_err(fault("look at", &current))? == before {
                return Ok(Log { name, files });
            }
        }
    }

    /// Whether this file has the name still, and so may grow.
    pub fn is_current(&self, file: &LogFile, name: &str) -> Result<bool, StoreError> {
        let path = self.dir.join(name);
        is_current(&file.file, &path).map_err(fault("look at", &path))
    }

    /// Makes the directory where there is none yet.
    pub fn make_dir(&self) -> Result<(), StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(fault("make", &self.dir))
    }
}

/// The files of one name, open.
#[derive(Debug)]
pub struct Log {
    /// [`RUNS`] or [`SERVE`].
    pub name: &'static str,
    /// The youngest first.
    pub files: Vec<LogFile>,
}

/// A log file that is open. While it is, no other file can be taken for it.
#[derive(Debug)]
pub struct LogFile {
    /// For positioned reads.
    pub file: File,
    /// Device and inode.
    id: (u64, u64),
    /// Its length when it was opened, in bytes.
    pub length: u64,
}

impl LogFile {
    fn new(file: File) -> io::Result<Self> {
        let mut opened = LogFile { file, id: (0, 0), length: 0 };
        let stat = opened.look()?;
        (opened.id, opened.length) = ((stat.dev(), stat.ino()), stat.len());
        Ok(opened)
    }

    /// Its length now, in bytes: what is written, without what is being written.
    pub fn length_now(&self) -> io::Result<u64> {
        Ok(self.look()?.len())
    }

    /// Whether it is the same file.
    pub fn is(&self, other: &LogFile) -> bool {
        self.id == other.id
    }

    /// At a moment without a writer, so that no line is half there. A writer that is stuck is not waited out.
    fn look(&self) -> io::Result<fs::Metadata> {
        let _ = lock(&self.file, FlockOperation::NonBlockingLockShared);
        let stat = self.file.metadata();
        let _ = flock(&self.file, FlockOperation::Unlock);
        stat
    }
}

/// Neither follows a link nor waits for the reader of a FIFO that somebody put in its place.
fn open_to_write(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    regular(
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?,
    )
}

fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Takes the lock, or fails after [`LOG_LOCK`].
fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if begin.elapsed() < LOG_LOCK => std::thread::sleep(LOG_LOCK_RETRY),
            Err(Errno::AGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds its lock"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    Ok(identity(path)? == Some((ours.dev(), ours.ino())))
}

/// Device and inode of what has this name, if anything has.
fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(Some((there.dev(), there.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Passes each file on to the next number, from the first free number down, so that a rotation that was cut short
/// costs no file; the oldest goes. The current file's name goes last: until then nobody else can rotate.
fn rotate(current: &Path) -> io::Result<()> {
    let last = LOG_FILES - 1;
    let free =
        (1..last).find(|&number| fs::symlink_metadata(numbered(current, number)).is_err()).unwrap_or(last);
    (0..free)
        .rev()
        .try_for_each(|number| fs::rename(numbered(current, number), numbered(current, number + 1)))
}

fn numbered(current: &Path, number: u32) -> PathBuf {
    let mut path = current.as_os_str().to_owned();
    if number > 0 {
        path.push(format!(".{number}"));
    }
    path.into()
}

fn write_all_or_nothing(mut file: File, length: u64, lines: &[u8]) -> io::Result<()> {
    // A writer that was killed within its write may have left a line without an end.
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let mended = if last == [b'\n'] { None } else { Some([b"\n", lines].concat()) };
    file.write_all(mended.as_deref().unwrap_or(lines)).inspect_err(|_| {
        let _ = file.set_len(length); // a full disk took a part
    })
}

fn fault(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |cause| StoreError::Io { doing, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests;

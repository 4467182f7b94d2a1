//! The lock of a service: of all `serve` with the same base directory one runs.
//!
//! It is a `flock` on the file `lock`, so the kernel lets go of it however its holder ends. The file holds the holder's
//! pid as text, to be shown and for nothing else.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, ftruncate, openat, statat,
    unlinkat,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::{Pid, test_kill_process};
use task_proto::limits::{DYING, REMNANTS, REMNANTS_RETRY};
use tokio::time::{Instant, sleep};

use crate::run_dir::{Base, LOCK};

/// Digits of a pid and more.
const PID_TEXT: usize = 32;

/// The lock, held until this is dropped, with its file.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
    directory: OwnedFd,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A service runs.
    #[error("{holder} already serves in {}: see task status, or choose another place with --runtime-dir", directory.display())]
    Held {
        /// Who.
        holder: Holder,
        /// The base directory.
        directory: PathBuf,
    },
    /// What is there by the lock's name is no regular file.
    #[error("{} is no regular file, so it can be no lock: remove it, or choose another place with --runtime-dir", path.display())]
    NoFile {
        /// What is there.
        path: PathBuf,
    },
    /// A call to the system failed.
    #[error("cannot lock {}: {cause}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// What the system says.
        cause: Errno,
    },
}

/// Who holds a lock, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The process of this pid.
    Pid(u32),
    /// It has not written its pid, or that of nobody.
    Unknown,
}

impl Lock {
    /// Takes the lock of this base directory. A holder that lives is waited for no longer than one takes to die that
    /// was just killed: [`DYING`]; one that cannot be told for at most [`REMNANTS`]: it may be about to write its pid,
    /// or be what a killed service has left.
    ///
    /// # Errors
    /// [`LockError::Held`] names the holder.
    pub async fn take(base: &Base) -> Result<Self, LockError> {
        let began = Instant::now();
        loop {
            let taken = Lock::try_take(base);
            let patience = match &taken {
                Err(LockError::Held { holder: Holder::Pid(_), .. }) => DYING,
                Err(LockError::Held { holder: Holder::Unknown, .. }) => REMNANTS,
                _ => return taken,
            };
            if began.elapsed() >= patience {
                return taken;
            }
            sleep(REMNANTS_RETRY).await;
        }
    }

    fn try_take(base: &Base) -> Result<Self, LockError> {
        let path = base.path().join(LOCK);
        let io = |cause| LockError::Io { path: path.clone(), cause };
        let directory = rustix::io::fcntl_dupfd_cloexec(base.fd(), 0).map_err(io)?;
        // Not blocking, for what is there may be a FIFO.
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(LockError::NoFile { path }),
            Err(cause) => return Err(io(cause)),
        };
        let opened = fstat(&file).map_err(io)?;
        if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
            return Err(LockError::NoFile { path });
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                return Err(LockError::Held { holder: holder(&file), directory: base.path().to_owned() });
            }
            Err(cause) => return Err(io(cause)),
        }
        // Its last holder may have removed it while we opened it: then this is the lock of nothing.
        match statat(&directory, LOCK, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => {
                return Err(LockError::Held { holder: Holder::Unknown, directory: base.path().to_owned() });
            }
            Err(cause) => return Err(io(cause)),
        }
        // A file system that is full costs the pid, not the lock.
        let pid = format!("{}\n", std::process::id());
        let _ = fchmod(&file, Mode::RUSR | Mode::WUSR)
            .and_then(|()| ftruncate(&file, 0))
            .and_then(|()| pwrite(&file, pid.as_bytes(), 0));
        Ok(Lock { file, directory })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held nobody else removes it; but somebody who tidies up may have, and another may serve since.
        let ours = fstat(&self.file).and_then(|ours| {
            let there = statat(&self.directory, LOCK, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
        });
        if ours == Ok(true) {
            let _ = unlinkat(&self.directory, LOCK, AtFlags::empty());
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Pid(pid) => write!(f, "process {pid}"),
            Holder::Unknown => f.write_str("another process (its pid is not in the lock)"),
        }
    }
}

/// What the lock says of its holder, unless that is the pid of nobody: then the last holder was killed, and this one
/// has yet to write its own.
fn holder(file: impl AsFd) -> Holder {
    let mut text = [0; PID_TEXT];
    let length = pread(file, &mut text, 0).unwrap_or(0);
    let pid = str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
    // Zero and below would be groups of processes.
    let pid = pid.filter(|pid: &i32| *pid > 0).and_then(Pid::from_raw);
    match pid {
        Some(pid) if test_kill_process(pid) != Err(Errno::SRCH) => {
            Holder::Pid(pid.as_raw_nonzero().get() as u32)
        }
        _ => Holder::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory whose lock somebody else holds, with this text in it.
    fn held(text: &str) -> (tempfile::TempDir, Base, fs::File) {
        let home = tempfile::tempdir().unwrap();
        let base = Base::open(Some(&home.path().join("task"))).unwrap();
        let file = fs::File::create(base.path().join(LOCK)).unwrap();
        fs::write(base.path().join(LOCK), text).unwrap();
        file.lock().unwrap();
        (home, base, file)
    }

    #[tokio::test]
    async fn a_holder_that_lives_is_named() {
        let (_home, base, _file) = held(&format!("{}\n", std::process::id()));
        match Lock::take(&base).await {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, Holder::Pid(std::process::id())),
            other => panic!("{other:?}"),
        }
    }

    /// As a child has it, until it execs, whose host was killed, or the host itself, which is about to go.
    #[tokio::test]
    async fn what_a_killed_service_has_left_is_waited_for() {
        for text in ["4194304", "", &std::process::id().to_string()] {
            let (_home, base, file) = held(text);
            let mut take = Box::pin(Lock::take(&base));
            assert!(futures::poll!(&mut take).is_pending());
            drop(file);
            let lock = take.await.unwrap();
            assert_eq!(
                fs::read_to_string(base.path().join(LOCK)).unwrap(),
                format!("{}\n", std::process::id())
            );
            drop(lock);
            assert!(!base.path().join(LOCK).exists());
        }
    }

    #[tokio::test]
    async fn a_lock_whose_file_was_replaced_is_of_nothing_and_removes_nothing() {
        let (_home, base, file) = held("4194304");
        fs::remove_file(base.path().join(LOCK)).unwrap();
        let lock = Lock::take(&base).await.unwrap();
        drop(file);
        fs::rename(base.path().join(LOCK), base.path().join("moved")).unwrap();
        fs::write(base.path().join(LOCK), "").unwrap();
        drop(lock);
        assert!(base.path().join(LOCK).exists());
    }
}

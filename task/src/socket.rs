//! The listening socket of a service. The host binds it and keeps it, so that clients wait in its backlog while one
//! worker follows another. Or a service manager gives it: then its file is not ours to remove.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, statat, unlinkat};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with,
};
use task_proto::limits::{BACKLOG, REMNANTS, REMNANTS_RETRY};
use task_proto::wire::{self, ConnectError};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

/// A listening Unix socket with its file, which only its owner may connect to. Dropped, the file is removed.
#[derive(Debug)]
pub struct Socket {
    listener: OwnedFd,
    dir: OwnedFd,
    name: OsString,
    /// Where it is, to show: it may be too long to connect to.
    path: PathBuf,
    /// Device and inode of the file; `None` once it is removed, and where it is not ours.
    file: Mutex<Option<(u64, u64)>>,
}

/// Why a socket that a service manager gave cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// It is something else.
    #[error("it is no listening Unix stream socket")]
    NotListening,
    /// It has no file: workers are told its path, and clients find it by that.
    #[error("it has no path in the file system")]
    NoPath,
    /// A call to the system failed.
    #[error("{0}")]
    Io(#[from] Errno),
}

/// Why what is there by a socket's name was not removed.
#[derive(Debug, thiserror::Error)]
pub enum StaleError {
    /// It is no socket, and so not ours.
    #[error("{} is there and is no socket: remove it, or choose another place with --runtime-dir", .0.display())]
    NoSocket(PathBuf),
    /// Some process has it open.
    #[error(
        "{} is in use by a process that does not hold the lock, maybe a service manager: stop that, or choose \
         another place with --runtime-dir", .0.display()
    )]
    InUse(PathBuf),
    /// A call to the system failed.
    #[error("cannot remove the stale socket {}: {cause}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        cause: Errno,
    },
}

/// Removes the socket `name` that a service which was killed left in the directory `dir`, which is at `path`. To be
/// called under that service's lock. A socket that is in use is waited for, at most [`REMNANTS`]: the dead
/// service's worker dies moments after it.
pub async fn remove_stale(dir: BorrowedFd<'_>, path: &Path, name: &str) -> Result<(), StaleError> {
    let path = path.join(name);
    let patience = Instant::now() + REMNANTS;
    loop {
        let removed = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(there) if FileType::from_raw_mode(there.st_mode) != FileType::Socket => {
                return Err(StaleError::NoSocket(path));
            }
            Ok(_) => match is_open(dir, name) {
                Ok(true) if Instant::now() > patience => return Err(StaleError::InUse(path)),
                Ok(true) => {
                    sleep(REMNANTS_RETRY).await;
                    continue;
                }
                Ok(false) => unlinkat(dir, name, AtFlags::empty()),
                Err(cause) => Err(cause),
            },
            Err(cause) => Err(cause),
        };
        return match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(cause) => Err(StaleError::Io { path, cause }),
        };
    }
}

/// Whether any process has the socket open. A connection of another type tells without being one: nobody is woken
/// by it, no service manager starts anything.
fn is_open(dir: BorrowedFd<'_>, name: &str) -> Result<bool, Errno> {
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    match connect(&probe, &address) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(Errno::PROTOTYPE) | Ok(()) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Socket {
    /// Makes the socket `name` in the directory `dir`, which is at `path`; that may be of any length.
    pub fn bind(dir: BorrowedFd<'_>, path: &Path, name: &str) -> Result<Self, Errno> {
        let dir = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Before bind, which gives the file the socket's mode: at no moment may others connect.
        fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
        // The address has room for 107 bytes.
        bind(&listener, &SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?)?;
        let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let file = Mutex::new(Some((stat.st_dev, stat.st_ino)));
        let socket = Socket { listener, dir, name: name.into(), path: path.join(name), file };
        listen(&socket.listener, BACKLOG)?;
        Ok(socket)
    }

    /// Takes over a socket that a service manager made and keeps: it is made non-blocking and closed on exec, and its
    /// file stays.
    ///
    /// # Errors
    /// What it is instead of a listening Unix stream socket with a path.
    pub fn given(listener: OwnedFd) -> Result<Self, GivenError> {
        let is_stream = getsockname(&listener)?.address_family() == AddressFamily::UNIX
            && socket_type(&listener)? == SocketType::STREAM;
        if !is_stream || !socket_acceptconn(&listener)? {
            return Err(GivenError::NotListening);
        }
        let address = SocketAddrUnix::try_from(getsockname(&listener)?)?;
        let path = address.path().map(|path| PathBuf::from(OsStr::from_bytes(path.to_bytes())));
        let path = path.filter(|path| path.is_absolute()).ok_or(GivenError::NoPath)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(GivenError::NoPath);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent, flags, Mode::empty())?;
        fcntl_setfd(&listener, FdFlags::CLOEXEC)?;
        ioctl_fionbio(&listener, true)?;
        let name = name.to_owned();
        Ok(Socket { listener, dir, name, path, file: Mutex::new(None) })
    }

    /// The listening end, non-blocking and closed on exec.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to it: waits while its backlog is full.
    pub async fn connect(&self) -> Result<UnixStream, ConnectError> {
        wire::connect_at(self.dir.as_fd(), &self.name).await
    }

    /// Removes the file, so that no client finds the service any more; those in the backlog are still served. Says
    /// whether it was there: a file that is not ours any more stays.
    pub fn unlink(&self) -> Result<bool, Errno> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ours) = *file else { return Ok(false) };
        let there = match statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some((stat.st_dev, stat.st_ino)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        *file = None;
        if there != Some(ours) {
            return Ok(false);
        }
        unlinkat(&self.dir, &self.name, AtFlags::empty())?;
        Ok(true)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = self.unlink() {
            tracing::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unprivileged::unprivileged;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    fn directory(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn only_its_owner_may_connect() {
        let home = tempfile::tempdir().unwrap();
        let _socket = Socket::bind(directory(home.path()).as_fd(), Path::new("x"), "rpc.sock").unwrap();
        let stat = fs::symlink_metadata(home.path().join("rpc.sock")).unwrap();
        assert!(stat.file_type().is_socket());
        assert_eq!(stat.permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(home.path().join("rpc.sock")).unwrap();
    }

    #[test]
    fn the_listener_is_non_blocking_and_closed_on_exec() {
        let home = tempfile::tempdir().unwrap();
        let socket = Socket::bind(directory(home.path()).as_fd(), Path::new("x"), "rpc.sock").unwrap();
        let flags = rustix::fs::fcntl_getfl(socket.listener()).unwrap();
        assert!(flags.contains(OFlags::NONBLOCK));
        let flags = rustix::io::fcntl_getfd(socket.listener()).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn a_long_path_works() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(110)).join("e".repeat(110));
        fs::create_dir_all(&deep).unwrap();
        assert!(deep.as_os_str().len() > 230);
        let dir = directory(&deep);
        let socket = Socket::bind(dir.as_fd(), Path::new("x"), "rpc.sock").unwrap();
        UnixStream::connect(format!("/proc/self/fd/{}/rpc.sock", dir.as_raw_fd())).unwrap();
        assert_eq!(socket.unlink(), Ok(true));
        assert!(!deep.join("rpc.sock").exists());
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let dir = directory(home.path());
        let path = home.path().join("rpc.sock");
        let socket = Socket::bind(dir.as_fd(), Path::new("x"), "rpc.sock").unwrap();
        fs::rename(&path, home.path().join("kept")).unwrap(); // so that its inode is not given out again
        fs::write(&path, "somebody else's").unwrap();
        assert_eq!(socket.unlink(), Ok(false));
        drop(socket);
        assert!(path.exists());
        assert_eq!(Socket::bind(dir.as_fd(), Path::new("x"), "rpc.sock").unwrap_err(), Errno::ADDRINUSE);
        assert!(path.exists());
    }

    #[test]
    fn it_is_removed_once_and_dropping_removes_it_too() {
        let home = tempfile::tempdir().unwrap();
        let dir = directory(home.path());
        let path = home.path().join("rpc.sock");
        let socket = Socket::bind(dir.as_fd(), Path::new("x"), "rpc.sock").unwrap();
        assert_eq!((socket.unlink(), socket.unlink()), (Ok(true), Ok(false)));
        fs::write(&path, "").unwrap();
        drop(socket);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        drop(Socket::bind(dir.as_fd(), Path::new("x"), "rpc.sock").unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn clients_wait_in_the_backlog_even_when_the_file_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let socket = Socket::bind(directory(home.path()).as_fd(), Path::new("x"), "rpc.sock").unwrap();
        let _client = UnixStream::connect(home.path().join("rpc.sock")).unwrap();
        socket.unlink().unwrap();
        assert!(rustix::net::accept(socket.listener()).is_ok());
        assert_eq!(rustix::net::accept(socket.listener()).unwrap_err(), Errno::AGAIN);
    }

    #[tokio::test]
    async fn a_dead_services_socket_is_replaced_once_nobody_has_it_open() {
        let home = tempfile::tempdir().unwrap();
        let dir = directory(home.path());
        let socket = Socket::bind(dir.as_fd(), Path::new("x"), "rpc.sock").unwrap();
        // As its worker has it, for the moments in which it outlives its host.
        let copy = socket.listener().try_clone_to_owned().unwrap();
        *socket.file.lock().unwrap() = None;
        drop(socket);
        let mut removal = Box::pin(remove_stale(dir.as_fd(), home.path(), "rpc.sock"));
        assert!(futures::poll!(&mut removal).is_pending());
        drop(copy);
        removal.await.unwrap();
        assert!(!home.path().join("rpc.sock").exists());
    }

    #[test]
    fn a_directory_that_takes_no_file_is_an_error() {
        unprivileged("socket::tests::a_directory_that_takes_no_file_is_an_error", || {
            let home = tempfile::tempdir().unwrap();
            fs::set_permissions(home.path(), fs::Permissions::from_mode(0o500)).unwrap();
            assert_eq!(
                Socket::bind(directory(home.path()).as_fd(), Path::new("x"), "rpc.sock").unwrap_err(),
                Errno::ACCESS
            );
        });
    }
}

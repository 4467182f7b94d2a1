//! The listening socket of a service. The host binds it and keeps it, so that clients wait in its backlog while one
//! worker follows another.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, fchmod, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use task_proto::limits::BACKLOG;
use task_proto::wire;
use tokio::net::UnixStream;

/// A listening Unix socket with its file, which only its owner may connect to. Dropped, the file is removed.
#[derive(Debug)]
pub struct Socket {
    listener: OwnedFd,
    dir: OwnedFd,
    name: String,
    /// Where it is, to show: it may be too long to connect to.
    path: PathBuf,
    /// Device and inode of the file; `None` once it is removed.
    file: Mutex<Option<(u64, u64)>>,
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
        let socket = Socket { listener, dir, name: name.to_owned(), path: path.join(name), file };
        listen(&socket.listener, BACKLOG)?;
        Ok(socket)
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
    pub async fn connect(&self) -> io::Result<UnixStream> {
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
            tracing::warn!("cannot remove the socket {}: {error}", self.name);
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
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        let flags = rustix::io::fcntl_getfd(socket.listener()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
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

//! The listening socket of a service. The host binds it and keeps it, so that clients wait in its backlog while one
//! worker follows another.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, fchmod, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use task_proto::limits::BACKLOG;

/// A listening Unix socket with its file, which only its owner may connect to. Dropped, the file is removed.
#[derive(Debug)]
pub struct Socket {
    listener: OwnedFd,
    dir: OwnedFd,
    name: String,
    /// Device and inode of the file; `None` once it is removed.
    file: Option<(u64, u64)>,
}

impl Socket {
    /// Makes the socket `name` in the directory `dir`. The directory's own path may be of any length.
    pub fn bind(dir: BorrowedFd<'_>, name: &str) -> Result<Self, Errno> {
        let dir = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Before bind, which gives the file the socket's mode: at no moment may others connect.
        fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
        // The address has room for 107 bytes.
        bind(&listener, &SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?)?;
        let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let file = Some((stat.st_dev, stat.st_ino));
        let socket = Socket { listener, dir, name: name.to_owned(), file };
        listen(&socket.listener, BACKLOG)?;
        Ok(socket)
    }

    /// The listening end, non-blocking and closed on exec.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Removes the file, so that no client finds the service any more; those in the backlog are still served. Says
    /// whether it was there: a file that is not ours any more stays.
    pub fn unlink(&mut self) -> Result<bool, Errno> {
        let Some(ours) = self.file else { return Ok(false) };
        let there = match statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some((stat.st_dev, stat.st_ino)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        self.file = None;
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

//! Connecting to a Unix socket that may be busy or have a long path.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::limits::{CONNECT, CONNECT_BACKOFF, CONNECT_BACKOFF_MAX, SOCKET_PATH};

/// Connects to the socket at this path, of any length.
///
/// A full backlog is waited for, at most [`CONNECT`]: a worker that is being replaced accepts soon.
///
/// # Errors
/// Those of `connect(2)`; [`io::ErrorKind::TimedOut`] when the backlog stays full.
pub async fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
    let path = path.as_ref();
    if path.as_os_str().len() <= SOCKET_PATH {
        return connect_address(&SocketAddrUnix::new(path)?).await;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NAMETOOLONG.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: OwnedFd = open(parent, flags, Mode::empty())?;
    connect_at(directory.as_fd(), name).await
}

/// Connects to the socket of this name in an open directory, likewise.
pub async fn connect_at(directory: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<UnixStream> {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(name.as_ref());
    connect_address(&SocketAddrUnix::new(path)?).await
}

async fn connect_address(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let deadline = Instant::now() + CONNECT;
    let mut backoff = CONNECT_BACKOFF;
    loop {
        match connect_socket(&socket, address) {
            Ok(()) => return UnixStream::from_std(socket.into()),
            Err(Errno::INTR) => {}
            // A full backlog. There is nothing to wait on: no event tells when it has room.
            Err(Errno::AGAIN) => {
                if timeout_at(deadline, sleep(backoff)).await.is_err() {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the socket's backlog was full for {} s", CONNECT.as_secs()),
                    ));
                }
                backoff = (backoff * 2).min(CONNECT_BACKOFF_MAX);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

//! Connecting to a Unix socket that may be busy, dead, missing or at the end of a long path.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, open, statat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::limits::{CONNECT, CONNECT_BACKOFF, CONNECT_BACKOFF_MAX, SOCKET_PATH};

/// Why there is no connection. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// There is nothing by that name.
    #[error("there is no such socket, so no service runs here")]
    Missing,
    /// Nobody listens on the socket: who made it is dead, and did not remove it.
    #[error("nobody listens on this socket: the service that made it is dead")]
    Refused,
    /// It is something else than a socket.
    #[error("it is no socket")]
    NoSocket,
    /// As many wait to be accepted as may, and none of them was for [`CONNECT`].
    #[error("the backlog was full for {} s: the service is there but takes no connection", CONNECT.as_secs())]
    Full,
    /// The socket, or a directory on the way to it, belongs to somebody else.
    #[error("permission denied: the socket belongs to somebody else")]
    Denied,
    /// What else the system says.
    #[error("{0}")]
    Other(Errno),
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => ConnectError::Missing,
            Errno::CONNREFUSED => ConnectError::Refused,
            Errno::ACCESS | Errno::PERM => ConnectError::Denied,
            other => ConnectError::Other(other),
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).unwrap_or(Errno::IO).into()
    }
}

/// Connects to the socket at this path, of any length.
///
/// A full backlog is waited for, at most [`CONNECT`]: a worker that is being replaced accepts soon.
///
/// # Errors
/// [`ConnectError`] tells the cases apart.
pub async fn connect(path: impl AsRef<Path>) -> Result<UnixStream, ConnectError> {
    let path = path.as_ref();
    if path.as_os_str().len() <= SOCKET_PATH {
        return connect_address(path).await;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NAMETOOLONG.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: OwnedFd = open(parent, flags, Mode::empty())?;
    connect_at(directory.as_fd(), name).await
}

/// Connects to the socket of this name in an open directory, likewise.
pub async fn connect_at(
    directory: BorrowedFd<'_>,
    name: impl AsRef<OsStr>,
) -> Result<UnixStream, ConnectError> {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(name.as_ref());
    connect_address(&path).await
}

async fn connect_address(path: &Path) -> Result<UnixStream, ConnectError> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let deadline = Instant::now() + CONNECT;
    let mut backoff = CONNECT_BACKOFF;
    loop {
        match connect_socket(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from_std(socket.into())?),
            Err(Errno::INTR) => {}
            // A full backlog. There is nothing to wait on: no event tells when it has room.
            Err(Errno::AGAIN) => {
                if timeout_at(deadline, sleep(backoff)).await.is_err() {
                    return Err(ConnectError::Full);
                }
                backoff = (backoff * 2).min(CONNECT_BACKOFF_MAX);
            }
            // The kernel says the same of a file that is no socket.
            Err(Errno::CONNREFUSED) if !is_socket(path) => return Err(ConnectError::NoSocket),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_socket(path: &Path) -> bool {
    statat(CWD, path, AtFlags::empty())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_missing_socket_a_stale_one_and_a_file_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("rpc.sock");
        assert_eq!(connect(&path).await.unwrap_err(), ConnectError::Missing);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(connect(&path).await.unwrap_err(), ConnectError::Refused);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(connect(&path).await.unwrap_err(), ConnectError::NoSocket);
        assert_eq!(connect(path.join("below")).await.unwrap_err(), ConnectError::Missing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_that_stays_full_is_waited_for_and_then_told() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("rpc.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waiting = connect(&path).await.unwrap();
        let began = Instant::now();
        assert_eq!(connect(&path).await.unwrap_err(), ConnectError::Full);
        assert!(began.elapsed() + CONNECT_BACKOFF_MAX >= CONNECT, "{:?}", began.elapsed());
    }
}

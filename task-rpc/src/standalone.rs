//! A worker alone: it binds its own socket and takes it away again, or serves one that a service manager gave.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use listenfd::ListenFd;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, open, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use task_proto::limits::{BACKLOG, SOCKET_LOCK, SOCKET_LOCK_RETRY};

use crate::error::{Context, WorkerError};

/// Where a worker alone serves.
#[derive(Debug)]
pub(crate) enum Place {
    /// On a socket of its own at this path.
    Own(PathBuf),
    /// On one that somebody gave, who keeps it.
    Given(UnixListener),
}

impl Place {
    /// What a service manager gave (`LISTEN_FDS`). It takes variables out of the environment, which no other thread may
    /// be reading.
    pub(crate) fn given() -> Result<Option<Self>, WorkerError> {
        let refused = |problem: String| WorkerError::Given { problem };
        let mut given = ListenFd::from_env();
        if given.len() > 1 {
            return Err(refused(format!("one socket can be served, not {}", given.len())));
        }
        let listener = given.take_unix_listener(0).map_err(|error| refused(error.to_string()))?;
        match listener {
            Some(listener) if socket_acceptconn(&listener) != Ok(true) => {
                Err(refused("no listening Unix stream socket".into()))
            }
            listener => Ok(listener.map(Place::Given)),
        }
    }

    /// The listener, its path to show, and the file to remove at the end, if it is ours.
    pub(crate) fn listen(self) -> Result<(UnixListener, PathBuf, Option<SocketFile>), WorkerError> {
        match self {
            Place::Own(path) => {
                let (listener, file) = bind_socket(&path)?;
                Ok((listener, path, Some(file)))
            }
            Place::Given(listener) => {
                listener.set_nonblocking(true).context("cannot use the listener")?;
                let address = listener.local_addr().context("cannot use the listener")?;
                // One in the abstract namespace has none.
                let path = address.as_pathname().map(Path::to_owned).unwrap_or_default();
                Ok((listener, path, None))
            }
        }
    }
}

/// A socket in the file system; it is removed when this is dropped, if it is still the one that was bound. A sandbox
/// without Landlock denies that: the next start finds it stale.
#[derive(Debug)]
pub(crate) struct SocketFile {
    directory: OwnedFd,
    name: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// The directory that it is in.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Binds and listens, with mode 0600. A stale socket is replaced; a live one, and anything else, is refused.
fn bind_socket(path: &Path) -> Result<(UnixListener, SocketFile), WorkerError> {
    try_bind(path).map_err(|problem| WorkerError::Socket { path: path.to_owned(), problem })
}

fn try_bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let name = PathBuf::from(path.file_name().ok_or("no name of a socket")?);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("cannot open its directory: {}", say(error)))?;
    // Two that start at once must not both find the same stale socket, and one remove the other's new one.
    lock(&directory);
    let address = address(&directory, &name)?;
    if let Some(there) = look(&directory, &name).map_err(say)? {
        if FileType::from_raw_mode(there.st_mode) != FileType::Socket {
            return Err("exists and is no socket".into());
        }
        if is_served(&address).map_err(say)? {
            return Err("is already served".into());
        }
        unlinkat(&directory, &name, AtFlags::empty())
            .map_err(|error| format!("cannot remove the stale socket: {}", say(error)))?;
    }
    let socket = unix_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(say)?;
    // Before `bind`, which makes the file with this mode: there is no moment in which others may connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(say)?;
    bind(&socket, &address).map_err(|error| format!("cannot bind: {}", say(error)))?;
    let made = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(say)?;
    let file = SocketFile { directory, name, identity: (made.st_dev, made.st_ino) };
    listen(&socket, BACKLOG).map_err(say)?;
    let _ = flock(&file.directory, FlockOperation::Unlock);
    Ok((UnixListener::from(socket), file))
}

/// The address through the directory's descriptor: a path may be longer than the 107 bytes of an address.
fn address(directory: &OwnedFd, name: &Path) -> Result<SocketAddrUnix, String> {
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    SocketAddrUnix::new(&short)
        .map_err(|_| format!("a name of {} bytes is too long", name.as_os_str().as_bytes().len()))
}

/// Takes the directory's lock, or goes on without it after [`SOCKET_LOCK`]: whoever may read the directory
/// could hold it for ever.
fn lock(directory: &OwnedFd) {
    let end = Instant::now() + SOCKET_LOCK;
    // `flock` knows no time limit, so it is asked again and again.
    while flock(directory, FlockOperation::NonBlockingLockExclusive).is_err() && Instant::now() < end {
        thread::sleep(SOCKET_LOCK_RETRY);
    }
}

fn look(directory: &OwnedFd, name: &Path) -> Result<Option<Stat>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok(Some(there)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_served(address: &SocketAddrUnix) -> Result<bool, Errno> {
    let probe = unix_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match connect(&probe, address) {
        // EAGAIN: its backlog is full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error),
    }
}

fn unix_socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn say(error: Errno) -> String {
    io::Error::from(error).to_string()
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(Some(there)) = look(&self.directory, &self.name)
            && (there.st_dev, there.st_ino) == self.identity
        {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn problem(path: &Path) -> String {
        bind_socket(path).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_is_bound_for_its_owner_only_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (_listener, file) = bind_socket(&path).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_longer_than_an_address_works() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        bind_socket(&deep.join("s")).unwrap();
        assert!(problem(&deep.join("s".repeat(200))).contains("200 bytes is too long"));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, _file) = bind_socket(&path).unwrap();
        assert!(problem(&path).ends_with("s: is already served"));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "precious").unwrap();
        assert!(problem(&path).ends_with("exists and is no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = directory.path().join("l");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        assert!(problem(&link).ends_with("exists and is no socket"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        assert!(problem(Path::new("/nonexistent/s")).contains("/nonexistent/s: cannot open its directory"));
        assert!(problem(Path::new("/")).contains("no name of a socket"));
    }

    #[test]
    fn somebody_elses_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (_listener, file) = bind_socket(&path).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn of_many_that_start_at_once_on_a_stale_socket_one_serves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for _ in 0..50 {
            drop(UnixListener::bind(&path).unwrap());
            let bound: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| bind_socket(&path).ok())).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(bound.len(), 1);
        }
    }
}

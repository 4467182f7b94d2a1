//! What a service manager is told of a worker alone: `sd_notify(3)`.
//!
//! The crates for it wait for a manager that does not read, and make a socket for each word; nothing may hold the service
//! up, and its sandbox allows no new socket.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use task_proto::limits::NOTIFY;

/// It serves.
pub(crate) const READY: &str = "READY=1\nSTATUS=serving\n";
/// It ends.
pub(crate) const STOPPING: &str = "STOPPING=1\nSTATUS=answering what was asked\n";

/// Whoever `NOTIFY_SOCKET` names, if anybody.
#[derive(Debug)]
pub(crate) struct Manager(Option<OwnedFd>);

impl Manager {
    /// Before the sandbox closes: what is connected stays so.
    pub(crate) fn connect() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        Manager(name.and_then(|name| reach(&name).inspect_err(|error| complain(*error)).ok()))
    }

    /// Tells it, if it takes the news in time.
    pub(crate) fn tell(&self, news: &str) {
        let Manager(Some(socket)) = self else { return };
        if let Err(error) = send(socket, news.as_bytes(), SendFlags::NOSIGNAL) {
            complain(error);
        }
    }
}

fn complain(error: Errno) {
    let error = std::io::Error::from(error);
    tracing::warn!(log.target = "worker", %error, "cannot tell the service manager at NOTIFY_SOCKET");
}

/// The name is a path, or `@name` in the abstract namespace.
fn reach(manager: &OsStr) -> Result<OwnedFd, Errno> {
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        path => SocketAddrUnix::new(path),
    }?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(NOTIFY))?;
    connect(&socket, &address)?;
    Ok(socket)
}

//! What a service manager is told of a worker alone: `sd_notify(3)`.
//!
//! The crates for it wait for a manager that does not read; nothing may hold the service up.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use task_proto::limits::NOTIFY;

/// It serves.
pub(crate) const READY: &str = "READY=1\nSTATUS=serving\n";
/// It ends.
pub(crate) const STOPPING: &str = "STOPPING=1\nSTATUS=answering what was asked\n";

/// Tells whoever `NOTIFY_SOCKET` names, if it takes the news in time.
pub(crate) fn tell(news: &str) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&manager, news) {
        let (manager, error) = (manager.display(), std::io::Error::from(error));
        tracing::warn!(log.target = "worker", %error, "cannot tell the service manager at {manager}");
    }
}

/// The name is a path, or `@name` in the abstract namespace.
fn send(manager: &OsStr, news: &str) -> Result<(), Errno> {
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
        path => SocketAddrUnix::new(path),
    }?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(NOTIFY))?;
    sendto(&socket, news.as_bytes(), SendFlags::NOSIGNAL, &address)?;
    Ok(())
}

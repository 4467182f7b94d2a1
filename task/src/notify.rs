//! What a service manager is told: `sd_notify(3)`.
//!
//! Written here because nothing may hold the host up: a datagram that the manager does not take in time is dropped,
//! where the crates for it wait.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{SendFlags, send};
use rustix::time::{ClockId, clock_gettime};
use task_proto::limits::NOTIFY;

/// What a service manager may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It serves: at the start, and after a reload.
    Ready,
    /// A reload has begun.
    Reloading,
    /// It is ending.
    Stopping,
}

/// The way to the service manager; to nobody where none asked to be told.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    /// Tells whoever `NOTIFY_SOCKET` names.
    pub fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = socket.and_then(|address| match connected(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("cannot reach the service manager at {}: {error}", address.display());
                None
            }
        });
        Notifier { socket }
    }

    /// Tells this, and how the service stands, in words.
    pub fn tell(&self, news: Option<News>, status: &str) {
        let Some(socket) = &self.socket else { return };
        let mut text = String::new();
        match news {
            Some(News::Ready) => text.push_str("READY=1\n"),
            Some(News::Stopping) => text.push_str("STOPPING=1\n"),
            Some(News::Reloading) => {
                let now = clock_gettime(ClockId::Monotonic);
                let us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
                // Writing to a String cannot fail.
                let _ = writeln!(text, "RELOADING=1\nMONOTONIC_USEC={us}");
            }
            None => {}
        }
        // A line break would begin another assignment.
        let _ = writeln!(text, "STATUS={}", status.replace(['\n', '\r'], " "));
        // Words for people wait for nobody: a manager that does not read must not delay the next worker.
        let flags = if news.is_some() { SendFlags::empty() } else { SendFlags::DONTWAIT };
        if let Err(errno) = send(socket, text.as_bytes(), flags | SendFlags::NOSIGNAL) {
            tracing::debug!("the service manager was not told {news:?}: {errno}");
        }
    }
}

/// `/run/systemd/notify`, or `@name` in the abstract namespace.
fn connected(address: &OsString) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY))?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

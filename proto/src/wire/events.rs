//! Learning of a socket what is not read from it: that its peer is gone, that there is room to write.
//!
//! tokio can be asked once for a socket, and is asked for what comes to be read. So a second epoll watches the socket
//! for something else, and tokio watches that epoll. No duplicate of the socket is made: it would keep the connection
//! open.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::epoll::{self, EventFlags};

use crate::watched::Watched;

/// Resolves when the peer of a socket is gone: closed or dead, not merely done with sending. End of stream does not tell:
/// it also means *no more requests, answer me* (`nc -N`). `EPOLLHUP` tells, which is reported without being asked for:
/// both directions are closed.
///
/// It need not resolve once the socket itself is dropped.
#[derive(Debug)]
#[must_use = "it does nothing unless awaited"]
pub struct Hangup(Watched);

impl Hangup {
    /// Watches this socket. Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// The system's: no descriptor or memory for it.
    pub fn new(socket: impl AsFd) -> io::Result<Self> {
        Ok(Hangup(watch(socket)?))
    }
}

impl Future for Hangup {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_readable(cx).map(|_| ())
    }
}

/// Tells when a socket that was full has room again, or is broken.
///
/// It is made when it is needed first, and asked only then. A socket that is watched for room all the time, as tokio's own
/// are, wakes whoever waits for what its peer sends each time that the peer reads: one switch between processes in three,
/// two microseconds of the fifteen that a call took.
#[derive(Debug)]
pub(super) struct Room(Watched);

impl Room {
    /// For this socket. Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// The system's: no descriptor or memory for it.
    pub(super) fn new(socket: impl AsFd) -> io::Result<Self> {
        Ok(Room(watch(socket)?))
    }

    /// From now on it tells of room, or no longer.
    pub(super) fn ask(&self, socket: impl AsFd, asked: bool) -> io::Result<()> {
        // What was told before says nothing of now.
        let _ = self.0.try_read(|_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        let events = if asked { EventFlags::OUT } else { EventFlags::empty() };
        Ok(epoll::modify(&self.0, socket, epoll::EventData::new_u64(0), events)?)
    }

    /// Ready once there is, where it was asked.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_readable(cx)
    }
}

/// Tells of a hang-up, and of what else is asked of it.
fn watch(socket: impl AsFd) -> io::Result<Watched> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&watch, socket, epoll::EventData::new_u64(0), EventFlags::empty())?;
    Watched::new(watch)
}

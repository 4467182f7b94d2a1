//! Learning that a peer is gone, without reading from it.
//!
//! End of stream does not tell: it also means *no more requests, answer me* (`nc -N`). `POLLHUP` tells: both
//! directions are closed. tokio cannot be asked for it alone on a socket that it also reads, so a second epoll
//! watches the socket with an empty event mask (`EPOLLHUP` and `EPOLLERR` are always reported), and tokio watches
//! that epoll. No duplicate of the socket is made: it would keep the connection open.

#![expect(unsafe_code, reason = "tokio registers a descriptor of ours only through an unsafe function")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::epoll;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Resolves when the peer of a socket is gone: closed or dead, not merely done with sending.
///
/// It must be created within a tokio runtime. It never resolves once the socket itself is dropped.
#[derive(Debug)]
#[must_use = "it does nothing unless awaited"]
pub struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// Watches this socket.
    pub fn new(socket: impl AsFd) -> io::Result<Self> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&watch, socket, epoll::EventData::new_u64(0), epoll::EventFlags::empty())?;
        // SAFETY: the `OwnedFd` is an open descriptor that nobody else owns; it goes into the `AsyncFd`, which
        // nothing here lets out or replaces, so it stays open and the same until it is deregistered.
        let watch = unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }?;
        Ok(Hangup(watch))
    }
}

impl Future for Hangup {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|_| ())
    }
}

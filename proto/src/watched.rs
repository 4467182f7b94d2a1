//! A descriptor of ours that tokio watches until it is readable: a socket, a pidfd, the lifeline, an epoll.

#![expect(unsafe_code, reason = "tokio registers a descriptor of ours only through an unsafe function")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// An open descriptor, closed on drop.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Must be called within a tokio runtime with I/O enabled, to which it belongs from then on.
    ///
    /// # Errors
    /// The system's: no room for one more.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the `OwnedFd` is an open descriptor that nobody else owns; it goes into the `AsyncFd`, which
        // nothing here lets out or replaces, so it stays open and the same until it is deregistered.
        Ok(Watched(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?))
    }

    /// Waits until it is readable, or ended; stays so until the guard is told otherwise.
    ///
    /// # Errors
    /// The runtime has ended.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }

    /// Ready where [`readable`](Self::readable) is. Only the last task to ask is woken.
    ///
    /// # Errors
    /// The runtime has ended.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx).map_ok(|_| ())
    }

    /// Reads, where it is readable; after `WouldBlock` it is no longer until the system says so again, unless it has ended.
    ///
    /// # Errors
    /// `WouldBlock` where it is not; those of `read`.
    pub fn try_read<R>(&self, read: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        self.0.try_io(Interest::READABLE, |descriptor| read(descriptor.as_fd()))
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

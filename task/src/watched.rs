//! A descriptor of ours that tokio watches until it is readable: a pidfd, the lifeline.

#![expect(unsafe_code, reason = "tokio registers a descriptor of ours only through an unsafe function")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// An open descriptor, closed on drop.
#[derive(Debug)]
pub(crate) struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Must be called within a tokio runtime with I/O enabled.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the `OwnedFd` is an open descriptor that nobody else owns; it goes into the `AsyncFd`, which
        // nothing here lets out or replaces, so it stays open and the same until it is deregistered.
        Ok(Watched(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?))
    }

    /// Waits until it is readable, or ended; stays so until the guard is told otherwise.
    pub(crate) async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

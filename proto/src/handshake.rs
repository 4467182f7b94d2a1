//! The handshake between a host and its worker, over a `SOCK_SEQPACKET` pair that is the worker's stdin.
//!
//! The host says [`Hello`], with the listening socket and the scoreboard beside it; the worker [`Answer`]s. Each
//! message is one datagram of JSON. No empty datagram is ever sent: it would read as the end of the stream.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::limits::{HANDSHAKE, Limits};

/// The oldest and the newest protocol that this build speaks.
pub const PROTOCOL: [u32; 2] = [1, 1];
/// Exit status of a worker that shares no protocol with its host (`EX_CONFIG` of sysexits.h). It is final.
pub const EXIT_REFUSED: u8 = 78;

/// What a host tells its worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest and newest protocol that the host speaks.
    pub protocol: [u32; 2],
    /// Name of this run of the host, as in its log.
    pub instance: String,
    /// Which worker of this host it is, from 1.
    pub generation: u64,
    /// Path of the socket, to show; the socket itself comes beside the message.
    pub socket: String,
    /// The limits to keep.
    pub limits: Limits,
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It serves.
    Ready(Ready),
    /// No protocol in common; it exits with [`EXIT_REFUSED`].
    Refused {
        /// Oldest and newest protocol that the worker speaks.
        protocol: [u32; 2],
    },
}

/// A worker that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The protocol chosen: the newest that both speak.
    pub protocol: u32,
    /// Version of the worker's build.
    pub build: String,
    /// Its process id.
    pub pid: u32,
    /// How much of the sandbox is in force.
    pub sandbox: Sandbox,
}

/// How much of the sandbox is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// All of it.
    Full,
    /// What this kernel has.
    Partial,
    /// Nothing.
    None,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other end closed without a message.
    #[error("the other end closed before its message")]
    Closed,
    /// The system call failed; `EAGAIN` on a non-blocking end that has no message yet.
    #[error("cannot exchange messages: {0}")]
    Io(#[from] Errno),
    /// The message is no JSON of the expected shape.
    #[error("not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The message or its descriptors are not all there.
    #[error("expected {expected} descriptors in one datagram of at most {HANDSHAKE} bytes, got {got}")]
    Truncated {
        /// Descriptors that belong to the message.
        expected: usize,
        /// Descriptors that came.
        got: usize,
    },
}

/// The newest protocol that both ends speak.
pub fn negotiate(ours: [u32; 2], theirs: [u32; 2]) -> Option<u32> {
    let newest = ours[1].min(theirs[1]);
    (newest >= ours[0].max(theirs[0])).then_some(newest)
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    hello: Hello,
}

/// Host: says hello, with the listening socket and the scoreboard.
pub fn send_hello(
    end: BorrowedFd<'_>,
    hello: &Hello,
    listener: BorrowedFd<'_>,
    scoreboard: BorrowedFd<'_>,
) -> Result<(), HandshakeError> {
    send(end, &Greeting { hello: hello.clone() }, &[listener, scoreboard])
}

/// Worker: waits for hello; returns it with the listening socket and the scoreboard.
pub fn receive_hello(end: BorrowedFd<'_>) -> Result<(Hello, OwnedFd, OwnedFd), HandshakeError> {
    let (Greeting { hello }, descriptors) = receive(end, 2)?;
    let got = descriptors.len();
    let [listener, scoreboard] =
        descriptors.try_into().map_err(|_| HandshakeError::Truncated { expected: 2, got })?;
    Ok((hello, listener, scoreboard))
}

/// Worker: answers.
pub fn send_answer(end: BorrowedFd<'_>, answer: &Answer) -> Result<(), HandshakeError> {
    send(end, answer, &[])
}

/// Host: takes the answer, once the end is readable.
pub fn receive_answer(end: BorrowedFd<'_>) -> Result<Answer, HandshakeError> {
    receive(end, 0).map(|(answer, _)| answer)
}

fn send(
    end: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), HandshakeError> {
    let datagram = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    retry_on_intr(|| sendmsg(end, &[IoSlice::new(&datagram)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

fn receive<T: DeserializeOwned>(
    end: BorrowedFd<'_>,
    expected: usize,
) -> Result<(T, Vec<OwnedFd>), HandshakeError> {
    let mut datagram = vec![0; HANDSHAKE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry_on_intr(|| {
        recvmsg(end, &mut [IoSliceMut::new(&mut datagram)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    if message.bytes == 0 {
        return Err(HandshakeError::Closed);
    }
    if message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) || descriptors.len() != expected {
        return Err(HandshakeError::Truncated { expected, got: descriptors.len() });
    }
    Ok((serde_json::from_slice(&datagram[..message.bytes])?, descriptors))
}

//! The handshake between a host and its worker, over a `SOCK_SEQPACKET` pair that is the worker's stdin.
//!
//! The host says [`Hello`], with the listening socket and the scoreboard beside it; the worker [`Answer`]s. Each
//! message is one datagram of JSON. No empty datagram is ever sent: it would read as the end of the stream.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send as send_bytes, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::crash::{Condemned, TraceId};
use crate::limits::{HANDSHAKE, Limits};

/// The oldest and the newest protocol that this build speaks: what the two say here, and the scoreboard's layout. Whoever
/// changes one of these raises both numbers, so that builds which differ refuse each other.
pub const PROTOCOL: [u32; 2] = [5, 5];
/// Exit status of a worker that refuses its host: no protocol in common, or no sandbox where one is required
/// (`EX_CONFIG` of sysexits.h). It is final.
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
    /// The sandbox to serve in.
    #[serde(default)]
    pub sandbox: SandboxMode,
    /// Calls that were executing when a worker died: they run one at a time.
    #[serde(default)]
    pub suspects: Vec<TraceId>,
    /// Calls that are not executed again, each answered with its crash.
    #[serde(default)]
    pub condemned: Vec<Condemned>,
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It serves.
    Ready(Ready),
    /// After `Ready`: somebody else than the host told it to end. It accepts no more, and answers what it was asked.
    Draining,
    /// It will not serve this host; it exits with [`EXIT_REFUSED`].
    Refused {
        /// Oldest and newest protocol that the worker speaks.
        protocol: [u32; 2],
        /// Why not, in words, where that is not the protocol.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
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
    /// What of it this kernel lacks, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Memory that it takes for numbers, in bytes, where it has such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// How much of the sandbox is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// No files by Landlock, and no system call but those that serving takes, by seccomp.
    Full,
    /// What this kernel has of it.
    Partial,
    /// Nothing.
    None,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sandbox::Full => "full",
            Sandbox::Partial => "partial",
            Sandbox::None => "none",
        })
    }
}

/// What is asked of a worker's sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// All of it, or no service.
    Require,
    /// What the kernel has.
    #[default]
    BestEffort,
    /// Nothing.
    Off,
}

impl SandboxMode {
    /// What people call them, for [`FromStr`].
    pub const NAMES: [&str; 3] = ["require", "best-effort", "off"];
}

impl FromStr for SandboxMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let [require, best_effort, off] = SandboxMode::NAMES;
        match name {
            _ if name == require => Ok(SandboxMode::Require),
            _ if name == best_effort => Ok(SandboxMode::BestEffort),
            _ if name == off => Ok(SandboxMode::Off),
            _ => Err(format!("it must be one of {}", SandboxMode::NAMES.join(", "))),
        }
    }
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
    /// The host has no protocol in common with this build; the oldest and the newest that it speaks.
    #[error("no protocol in common")]
    Foreign([u32; 2]),
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
fn negotiate(ours: [u32; 2], theirs: [u32; 2]) -> Option<u32> {
    let newest = ours[1].min(theirs[1]);
    (newest >= ours[0].max(theirs[0])).then_some(newest)
}

/// What a worker heard from its host.
#[derive(Debug)]
pub struct Heard {
    /// The protocol chosen: the newest that both speak.
    pub protocol: u32,
    /// What the host said.
    pub hello: Hello,
    /// The socket to serve on.
    pub listener: OwnedFd,
    /// Where to show what the worker does.
    pub scoreboard: OwnedFd,
}

#[derive(Serialize, Deserialize)]
struct Greeting<T> {
    hello: T,
}

/// What every hello has, also one that is otherwise unlike ours.
#[derive(Deserialize)]
struct AnyHello {
    protocol: [u32; 2],
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

/// Worker: waits for hello. One of a protocol that is not ours need not be understood to be refused.
pub fn receive_hello(end: BorrowedFd<'_>) -> Result<Heard, HandshakeError> {
    let datagram = receive(end)?;
    let Greeting { hello: AnyHello { protocol: theirs } } = serde_json::from_slice(&datagram.bytes)?;
    let protocol = negotiate(PROTOCOL, theirs).ok_or(HandshakeError::Foreign(theirs))?;
    let (Greeting { hello }, [listener, scoreboard]) = datagram.read()?;
    Ok(Heard { protocol, hello, listener, scoreboard })
}

/// Worker: answers.
pub fn send_answer(end: BorrowedFd<'_>, answer: &Answer) -> Result<(), HandshakeError> {
    send(end, answer, &[])
}

/// Host: takes the answer, once the end is readable.
pub fn receive_answer(end: BorrowedFd<'_>) -> Result<Answer, HandshakeError> {
    receive(end)?.read().map(|(answer, [])| answer)
}

fn send(
    end: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), HandshakeError> {
    let datagram = serde_json::to_vec(message)?;
    if descriptors.is_empty() {
        // A worker answers so: its sandbox denies `sendmsg`.
        retry_on_intr(|| send_bytes(end, &datagram, SendFlags::NOSIGNAL))?;
        return Ok(());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    retry_on_intr(|| sendmsg(end, &[IoSlice::new(&datagram)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

struct Datagram {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    cut: bool,
}

fn receive(end: BorrowedFd<'_>) -> Result<Datagram, HandshakeError> {
    let mut bytes = vec![0; HANDSHAKE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry_on_intr(|| {
        recvmsg(end, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
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
    bytes.truncate(message.bytes);
    let cut = message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    Ok(Datagram { bytes, descriptors, cut })
}

impl Datagram {
    /// The message, with so many descriptors.
    fn read<T: DeserializeOwned, const N: usize>(self) -> Result<(T, [OwnedFd; N]), HandshakeError> {
        let got = self.descriptors.len();
        match self.descriptors.try_into() {
            Ok(descriptors) if !self.cut => Ok((serde_json::from_slice(&self.bytes)?, descriptors)),
            _ => Err(HandshakeError::Truncated { expected: N, got }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn hello() -> Hello {
        let limits = Limits { memory: Some(1 << 30), input_idle: None, ..Limits::default() };
        let socket = "/run/with \"quotes\"/s".into();
        Hello {
            protocol: [1, PROTOCOL[1]],
            instance: "run-1".into(),
            generation: 7,
            socket,
            limits,
            sandbox: SandboxMode::Require,
            suspects: vec![TraceId(1)],
            condemned: Vec::new(),
        }
    }

    fn inode(fd: impl AsFd) -> (u64, u64) {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_dev, stat.st_ino)
    }

    #[test]
    fn hello_comes_whole_with_its_two_descriptors_in_order_and_closed_on_exec() {
        let (host, worker) = pair();
        let (listener, board) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
        send_hello(host.as_fd(), &hello(), listener.as_fd(), board.as_fd()).unwrap();
        let heard = receive_hello(worker.as_fd()).unwrap();
        assert_eq!((heard.protocol, heard.hello), (PROTOCOL[1], hello()));
        assert_eq!((inode(&heard.listener), inode(&heard.scoreboard)), (inode(&listener), inode(&board)));
        for fd in [heard.listener, heard.scoreboard] {
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_host_of_another_protocol_is_refused_whatever_else_it_says() {
        let (host, worker) = pair();
        for (hello, theirs) in [
            (r#"{"hello":{"protocol":[1,1],"limits":"few"}}"#, [1, 1]),
            (r#"{"later":[{}],"hello":{"protocol":[999,1000]}}"#, [999, 1000]),
        ] {
            send_bytes(&host, hello.as_bytes(), SendFlags::empty()).unwrap();
            let heard = receive_hello(worker.as_fd());
            assert!(
                matches!(heard, Err(HandshakeError::Foreign(protocol)) if protocol == theirs),
                "{heard:?}"
            );
        }
    }

    #[test]
    fn answers_come_whole() {
        let (host, worker) = pair();
        let ready = Ready {
            protocol: 1,
            build: "0.1.0".into(),
            pid: 42,
            sandbox: Sandbox::Partial,
            lacks: Some("no Landlock".into()),
            memory: Some(1 << 30),
        };
        for answer in [
            Answer::Ready(ready),
            Answer::Refused { protocol: [2, 3], reason: None },
            Answer::Refused { protocol: PROTOCOL, reason: Some("no Landlock".into()) },
        ] {
            send_answer(worker.as_fd(), &answer).unwrap();
            assert_eq!(receive_answer(host.as_fd()).unwrap(), answer);
        }
    }

    #[test]
    fn the_newest_protocol_of_both_is_chosen() {
        for (ours, theirs, chosen) in [
            ([1, 1], [1, 1], Some(1)),
            ([1, 3], [2, 5], Some(3)),
            ([2, 5], [1, 3], Some(3)),
            ([1, 9], [4, 4], Some(4)),
            ([1, 2], [3, 4], None),
            ([3, 4], [1, 2], None),
            ([0, u32::MAX], [u32::MAX, u32::MAX], Some(u32::MAX)),
            // Of somebody who mixed them up.
            ([1, 5], [4, 2], None),
        ] {
            assert_eq!(negotiate(ours, theirs), chosen, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn a_closed_end_is_told_from_a_message() {
        let (host, worker) = pair();
        drop(host);
        assert!(matches!(receive_hello(worker.as_fd()), Err(HandshakeError::Closed)));
        let answer = Answer::Refused { protocol: PROTOCOL, reason: None };
        let sent = send_answer(worker.as_fd(), &answer);
        assert!(matches!(sent, Err(HandshakeError::Io(Errno::PIPE))), "{sent:?}");
    }

    #[test]
    fn an_answer_that_has_not_come_does_not_block_a_host_that_does_not_wait() {
        let (host, _worker) = pair();
        rustix::io::ioctl_fionbio(&host, true).unwrap();
        assert!(matches!(receive_answer(host.as_fd()), Err(HandshakeError::Io(Errno::AGAIN))));
    }

    #[test]
    fn hello_without_its_descriptors_or_an_answer_with_some_is_refused() {
        let (host, worker) = pair();
        let null = File::open("/dev/null").unwrap();
        for count in [0, 1] {
            let greeting = Greeting { hello: hello() };
            send(host.as_fd(), &greeting, &[null.as_fd(); 2][..count]).unwrap();
            let Err(HandshakeError::Truncated { expected: 2, got }) = receive_hello(worker.as_fd()) else {
                panic!("{count} descriptors were enough")
            };
            assert_eq!(got, count);
        }
        send(worker.as_fd(), &Answer::Refused { protocol: PROTOCOL, reason: None }, &[null.as_fd()]).unwrap();
        let refused = receive_answer(host.as_fd());
        assert!(matches!(refused, Err(HandshakeError::Truncated { expected: 0, got: 1 })), "{refused:?}");
    }

    #[test]
    fn a_datagram_that_is_too_long_is_refused_even_if_its_beginning_would_do() {
        let (host, worker) = pair();
        let mut datagram = serde_json::to_vec(&Answer::Refused { protocol: PROTOCOL, reason: None }).unwrap();
        datagram.resize(HANDSHAKE + 1, b' ');
        send_bytes(&worker, &datagram, SendFlags::empty()).unwrap();
        let refused = receive_answer(host.as_fd());
        assert!(matches!(refused, Err(HandshakeError::Truncated { .. })), "{refused:?}");
    }

    #[test]
    fn what_is_no_message_is_not_understood() {
        let (host, worker) = pair();
        for datagram in
            ["{", "hello", "{\"ready\":{}}", "{\"refused\":{\"protocol\":[1]}}", "{\"later\":{}}", "\u{0}"]
        {
            send_bytes(&worker, datagram.as_bytes(), SendFlags::empty()).unwrap();
            let answer = receive_answer(host.as_fd());
            assert!(matches!(answer, Err(HandshakeError::Malformed(_))), "{datagram}: {answer:?}");
        }
    }
}

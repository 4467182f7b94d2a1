//! What hosts and workers of other builds say in a protocol that this one speaks, too: files of `frames/`, which are
//! never changed. A mixed pair is what an update leaves behind while a service runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, recv, send, socketpair};
use rustix::net::{RecvFlags, SendFlags};
use serde_json::Value;
use task_proto::handshake::{Answer, Hello, PROTOCOL, receive_answer, send_answer, send_hello};
use task_proto::limits::HANDSHAKE;

/// By the number of the protocol.
const SAID: [(u32, &str); 2] =
    [(4, include_str!("frames/handshake-4.txt")), (5, include_str!("frames/handshake-5.txt"))];
const BREACH: &str = "a build of the same protocol says or expects otherwise: raise PROTOCOL, keep this file, and begin \
                      one of the new number; or make the member one that may be left out";

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Whether a reader of what was said then finds all of it in what is said now.
fn keeps(then: &Value, now: &Value) -> bool {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            then.iter().all(|(name, then)| now.get(name).is_some_and(|now| keeps(then, now)))
        }
        (Value::Array(then), Value::Array(now)) => {
            then.len() == now.len() && then.iter().zip(now).all(|(then, now)| keeps(then, now))
        }
        _ => then == now,
    }
}

/// The datagram as it is said now.
fn said(say: impl FnOnce(&OwnedFd)) -> Value {
    let (ours, theirs) = pair();
    say(&ours);
    let mut datagram = vec![0; HANDSHAKE];
    let (length, _) = recv(&theirs, &mut datagram[..], RecvFlags::empty()).unwrap();
    serde_json::from_slice(&datagram[..length]).unwrap()
}

fn hello(text: &str) -> Value {
    let old: Value = serde_json::from_str(text).unwrap();
    let hello: Hello = serde_json::from_value(old["hello"].clone())
        .unwrap_or_else(|error| panic!("{text} is not understood ({error}): {BREACH}"));
    let null = File::open("/dev/null").unwrap();
    said(|end| send_hello(end.as_fd(), &hello, null.as_fd(), null.as_fd()).unwrap())
}

fn answer(text: &str) -> Value {
    let (ours, theirs) = pair();
    send(&theirs, text.as_bytes(), SendFlags::NOSIGNAL).unwrap();
    let answer: Answer = receive_answer(ours.as_fd())
        .unwrap_or_else(|error| panic!("{text} is not understood ({error}): {BREACH}"));
    said(|end| send_answer(end.as_fd(), &answer).unwrap())
}

#[test]
fn builds_of_one_protocol_understand_each_other() {
    let spoken = PROTOCOL[0]..=PROTOCOL[1];
    for (_, file) in SAID.iter().filter(|(protocol, _)| spoken.contains(protocol)) {
        let mut seen = 0;
        for line in file.lines() {
            let now = match line.split_once(' ') {
                Some(("hello", text)) => hello(text),
                Some(("answer", text)) => answer(text),
                _ => continue,
            };
            let then: Value = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
            assert!(keeps(&then, &now), "{then}\nis now\n{now}\n{BREACH}");
            seen += 1;
        }
        assert_eq!(seen, 8);
    }
}

#[test]
fn the_newest_protocol_has_its_file() {
    let known = SAID.iter().any(|(protocol, _)| *protocol == PROTOCOL[1]);
    assert!(known, "what is said in protocol {} belongs in a file of its own", PROTOCOL[1]);
}

//! The exchanges of `PROTOCOL.md`, held against the running server: each on a connection to a server of its own.
//!
//! Those of `frames/` are old ones, as clients still have them. They are never changed, and hold what `PROTOCOL.md` says
//! may not change without another version: what was understood is understood, and what was answered is answered, maybe
//! with members more. A new way to ask gets a place at the end of its file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use futures::StreamExt;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use support::{Alone, PATIENCE};
use task_proto::limits::Limits;
use task_proto::stats::{StatsRequest, StatsResponse};
use task_proto::wire::{self, FdStream};

const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

/// What goes over the wire: to the server, or from it.
#[derive(Debug, PartialEq)]
enum Bytes {
    /// A file of this text, whose descriptor goes with what is sent next.
    Attached(String),
    Sent(Vec<u8>),
    Heard(Vec<u8>),
}

/// The exchanges in this language.
fn exchanges(language: &str, bytes: fn(&str) -> Vec<u8>) -> Vec<Vec<Bytes>> {
    let fence = format!("```{language}");
    let mut lines = PROTOCOL.lines();
    let mut exchanges = Vec::new();
    while lines.by_ref().any(|line| line == fence) {
        exchanges.push(exchange(lines.by_ref().take_while(|line| *line != "```"), bytes));
    }
    exchanges
}

/// Messages begin with an arrow and go on in lines that are indented.
fn exchange<'a>(lines: impl IntoIterator<Item = &'a str>, bytes: fn(&str) -> Vec<u8>) -> Vec<Bytes> {
    let mut messages: Vec<(char, String)> = Vec::new();
    for line in lines {
        match line.split_once(' ') {
            Some((arrow @ ("↑" | "→" | "←"), text)) => {
                messages.extend(arrow.chars().map(|arrow| (arrow, text.to_owned())));
            }
            _ => messages.last_mut().unwrap().1 += line,
        }
    }
    let message = |(arrow, text): (char, String)| match arrow {
        '↑' => Bytes::Attached(text),
        '→' => Bytes::Sent(bytes(&text)),
        _ => Bytes::Heard(bytes(&text)),
    };
    messages.into_iter().map(message).collect()
}

/// A line of JSON.
fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

/// Hexadecimal digits, and text between quotation marks.
fn notation(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '\'' {
            let (quoted, after) = rest[1..].split_once(first).unwrap();
            bytes.extend(quoted.bytes());
            rest = after;
        } else {
            bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap_or_else(|_| panic!("{rest}")));
            rest = &rest[2..];
        }
        rest = rest.trim_start();
    }
    bytes
}

/// Sends bytes, and the descriptors of these files with the first of them.
fn send(stream: &UnixStream, bytes: &[u8], attached: &mut Vec<File>) {
    let descriptors: Vec<_> = attached.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
    attached.clear();
}

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn hold(exchange: &[Bytes]) {
    let alone = Alone::start();
    let mut stream = UnixStream::connect(&alone.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut attached = Vec::new();
    for bytes in exchange {
        match bytes {
            Bytes::Attached(text) => attached.push(file(text)),
            Bytes::Sent(sent) => send(&stream, sent, &mut attached),
            Bytes::Heard(expected) => {
                let mut heard = vec![0; expected.len()];
                let read = stream.read_exact(&mut heard);
                let (heard, expected) = (String::from_utf8_lossy(&heard), String::from_utf8_lossy(expected));
                assert!(
                    read.is_ok() && heard == expected,
                    "{read:?}\nheard    {heard:?}\nexpected {expected:?}"
                );
            }
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut more = Vec::new();
    stream.read_to_end(&mut more).unwrap();
    assert!(more.is_empty(), "after {exchange:?}: {:?} {more:02x?}", String::from_utf8_lossy(&more));
}

#[test]
fn lines_of_json_are_answered_as_documented() {
    let exchanges = exchanges("json-rpc", line);
    assert_eq!(exchanges.len(), 5);
    for exchange in &exchanges {
        hold(exchange);
    }
}

#[test]
fn frames_are_answered_as_documented_to_the_byte() {
    let exchanges = exchanges("tarpc", notation);
    assert_eq!(exchanges.len(), 2);
    for exchange in &exchanges {
        hold(exchange);
    }
}

/// Old exchanges, with empty lines between them and a word about them before.
fn old(file: &str, bytes: fn(&str) -> Vec<u8>) -> Vec<Vec<Bytes>> {
    file.split("\n\n").skip(1).map(|text| exchange(text.lines(), bytes)).collect()
}

/// Sends what was sent, and holds against what was answered what is answered now.
fn hold_old(alone: &Alone, exchange: &[Bytes], decode: fn(&[u8]) -> Vec<Value>) {
    let mut stream = UnixStream::connect(&alone.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut before, mut attached) = (Vec::new(), Vec::new());
    for bytes in exchange {
        match bytes {
            Bytes::Attached(text) => attached.push(file(text)),
            Bytes::Sent(sent) => send(&stream, sent, &mut attached),
            Bytes::Heard(heard) => before.extend_from_slice(heard),
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut now = Vec::new();
    stream.read_to_end(&mut now).unwrap();
    let (before, now) = (decode(&before), decode(&now));
    let kept = before.len() == now.len() && before.iter().zip(&now).all(|(before, now)| keeps(before, now));
    assert!(
        kept,
        "clients that are out there cannot be told: make the change one that they need not notice (a member more, or \
         one that may be left out), or give the protocol another version\n{exchange:?}\nwas answered {before:?}\n\
         and is now {now:?}"
    );
}

/// Whether all that was said before is said now. Texts for people may change, and so may who is talking.
fn keeps(before: &Value, now: &Value) -> bool {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => before.iter().all(|(name, before)| {
            let free = match &**name {
                // The last of a 1.0 reply: the kind, and then a text.
                "message" | "detail" | "error" => before.is_string(),
                "pid" => true,
                _ => false,
            };
            now.get(name).is_some_and(|now| {
                if free { before.is_string() == now.is_string() } else { keeps(before, now) }
            })
        }),
        (Value::Array(before), Value::Array(now)) => {
            // Warnings are texts, too.
            let texts = before.iter().chain(now).all(Value::is_string);
            before.len() == now.len() && (texts || before.iter().zip(now).all(|(b, n)| keeps(b, n)))
        }
        _ => before == now,
    }
}

fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame);
        bytes = rest;
    }
    frames
}

#[test]
fn lines_that_were_understood_once_are_understood_and_answered_alike() {
    let alone = Alone::start();
    let decode = |bytes: &[u8]| {
        bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    };
    let exchanges = old(include_str!("frames/json-rpc-1.txt"), line);
    assert!(exchanges.len() >= 32, "{}", exchanges.len());
    for exchange in &exchanges {
        hold_old(&alone, exchange, decode);
    }
}

#[test]
fn frames_that_were_understood_once_are_understood_and_answered_alike() {
    let alone = Alone::start();
    let decode =
        |bytes: &[u8]| frames(bytes).into_iter().map(|frame| rmp_serde::from_slice(frame).unwrap()).collect();
    let exchanges = old(include_str!("frames/tarpc-1.txt"), notation);
    assert!(exchanges.len() >= 26, "{}", exchanges.len());
    for exchange in &exchanges {
        hold_old(&alone, exchange, decode);
    }
}

#[tokio::test]
async fn replies_of_an_old_service_are_understood() {
    for exchange in old(include_str!("frames/tarpc-1.txt"), notation) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = FdStream::new(tokio::net::UnixStream::from_std(ours).unwrap(), 0).unwrap();
        let mut client = wire::client::<StatsRequest, StatsResponse>(stream, &Limits::default());
        let greeting = client.greeting();
        for bytes in &exchange {
            if let Bytes::Heard(heard) = bytes {
                theirs.write_all(heard).unwrap();
            }
        }
        drop(theirs);
        while let Some(reply) = client.next().await {
            let reply = reply.unwrap();
            let undecodable =
                reply.message.as_ref().is_err_and(|error| error.detail.contains("the reply cannot"));
            assert!(!undecodable, "an older service's reply is to be read, too: {reply:?} of {exchange:?}");
        }
        assert!(greeting.get().is_some(), "the greeting is not understood: {exchange:?}");
    }
}

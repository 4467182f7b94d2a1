//! The exchanges of `PROTOCOL.md`, held against the running server: each on a connection to a server of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use support::{Alone, PATIENCE};

const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

/// What goes over the wire: to the server, or from it.
#[derive(Debug, PartialEq)]
enum Bytes {
    Sent(Vec<u8>),
    Heard(Vec<u8>),
}

/// The exchanges in this language: messages begin with an arrow and go on in lines that are indented.
fn exchanges(language: &str, bytes: fn(&str) -> Vec<u8>) -> Vec<Vec<Bytes>> {
    let fence = format!("```{language}");
    let mut lines = PROTOCOL.lines();
    let mut exchanges = Vec::new();
    while lines.by_ref().any(|line| line == fence) {
        let mut messages: Vec<(bool, String)> = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            if let Some(sent) = line.strip_prefix("→ ") {
                messages.push((true, sent.to_owned()));
            } else if let Some(heard) = line.strip_prefix("← ") {
                messages.push((false, heard.to_owned()));
            } else {
                messages.last_mut().unwrap().1 += line;
            }
        }
        let message = |(sent, text): (bool, String)| {
            if sent { Bytes::Sent(bytes(&text)) } else { Bytes::Heard(bytes(&text)) }
        };
        exchanges.push(messages.into_iter().map(message).collect());
    }
    exchanges
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

fn hold(exchange: &[Bytes]) {
    let alone = Alone::start();
    let mut stream = UnixStream::connect(&alone.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for bytes in exchange {
        match bytes {
            Bytes::Sent(sent) => stream.write_all(sent).unwrap(),
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
    assert_eq!(exchanges.len(), 4);
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

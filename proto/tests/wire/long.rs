//! Long messages are decoded beside the connections of their thread, one of a client's at a time.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::{StreamExt, poll};
use serde::{Deserialize, Deserializer};
use task_proto::limits::{LONG_MESSAGE, Limits};
use task_proto::wire::json::{JsonError, Methods, Params};
use task_proto::wire::{self, Decoder, Dialect, FdStream, Gated, Server};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::local;
use crate::support::*;

/// What may be decoded, by the words that requests begin with; and what is being decoded or was.
static OPEN: Mutex<(BTreeSet<String>, Vec<String>)> = Mutex::new((BTreeSet::new(), Vec::new()));
static OPENED: Condvar = Condvar::new();

/// A request whose decoding takes until the test allows it.
#[derive(Debug, Clone, PartialEq)]
struct Slow(String);

fn slow(text: &str) -> Result<Slow, String> {
    let name = text.split(' ').next().unwrap().to_owned();
    if text.len() > LONG_MESSAGE {
        let mut gate = OPEN.lock().unwrap();
        gate.1.push(name.clone());
        let closed = |gate: &mut (BTreeSet<String>, _)| !gate.0.contains(&name);
        let (_gate, waited) = OPENED.wait_timeout_while(gate, Duration::from_secs(5), closed).unwrap();
        if waited.timed_out() {
            return Err("it is decoded where the test runs".into());
        }
    }
    Ok(Slow(name))
}

fn open(name: &str) {
    OPEN.lock().unwrap().0.insert(name.into());
    OPENED.notify_all();
}

fn decodings(prefix: &str) -> usize {
    OPEN.lock().unwrap().1.iter().filter(|name| name.starts_with(prefix)).count()
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        slow(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

const METHODS: Methods<Slow, ()> = Methods { request: by_json, reply: |(), _| Ok(()) };

fn by_json(_: &str, params: Params<'_>) -> Result<Slow, JsonError> {
    let words: [String; 1] = serde_json::from_str(params.json.unwrap().get()).unwrap();
    let [text] = words;
    slow(&text).map_err(JsonError::invalid_params)
}

fn long(name: &str) -> String {
    format!("{name} {}", "x".repeat(LONG_MESSAGE))
}

/// One of the two dialects: a server's end, and a request as bytes.
trait Speaks {
    type Of: Dialect<Req = Slow>;
    fn server(socket: UnixStream, limits: &Limits, decoder: &Decoder) -> Server<Self::Of>;
    fn request(id: u64, text: &str) -> Vec<u8>;
}

struct Frames;
struct Lines;

impl Speaks for Frames {
    type Of = wire::Frames<Slow, ()>;
    fn server(socket: UnixStream, limits: &Limits, decoder: &Decoder) -> Server<Self::Of> {
        wire::server(FdStream::new(socket, 0).unwrap(), limits, decoder)
    }
    fn request(id: u64, text: &str) -> Vec<u8> {
        framed(&request(id, Duration::from_hours(1), text))
    }
}

impl Speaks for Lines {
    type Of = wire::Lines<Slow, ()>;
    fn server(socket: UnixStream, limits: &Limits, decoder: &Decoder) -> Server<Self::Of> {
        wire::json_server(FdStream::new(socket, 0).unwrap(), limits, METHODS, decoder)
    }
    fn request(id: u64, text: &str) -> Vec<u8> {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"m\",\"params\":[[\"{text}\"]]}}\n").into()
    }
}

async fn next<D: Dialect<Req = Slow>>(server: &mut Server<D>) -> (u64, Gated<Slow>) {
    match soon(server.next()).await.unwrap().unwrap() {
        tarpc::ClientMessage::Request(request) => (request.id, request.message),
        _ => panic!("no request"),
    }
}

fn name(message: &Gated<Slow>) -> &str {
    &message.message().unwrap().0
}

async fn others_do_not_wait<S: Speaks>(own: &str) {
    let limits = Limits { in_flight: 1, frame_time: Duration::from_millis(20), ..Limits::default() };
    let [(mut ours, theirs), (mut other, others)] = [(); 2].map(|()| UnixStream::pair().unwrap());
    let mut server = S::server(theirs, &limits, &Decoder::default());
    let mut beside = S::server(others, &limits, &Decoder::default());
    // Behind the long one stands a whole one, and one that has only begun.
    let behind = S::request(2, "short");
    ours.write_all(&S::request(1, &long(own))).await.unwrap();
    ours.write_all(&[&behind[..], &behind[..9]].concat()).await.unwrap();
    begins(&mut server, own).await;
    assert!(!server.owes_nothing(), "it is not idle");

    other.write_all(&S::request(1, "beside")).await.unwrap();
    assert_eq!(name(&next(&mut beside).await.1), "beside");
    // The client of the long one is waited for only when that is decoded.
    let patience = 3 * limits.frame_time;
    assert!(tokio::time::timeout(patience, server.next()).await.is_err(), "something came of it");
    open(own);
    let (id, first) = next(&mut server).await;
    assert_eq!((id, name(&first)), (first_id(id), own));
    assert!(poll!(server.next()).is_pending(), "there is one permit");
    drop(first);
    assert_eq!(name(&next(&mut server).await.1), "short", "in their order");
}

/// Until this request is being decoded.
async fn begins<D: Dialect<Req = Slow>>(server: &mut Server<D>, own: &str) {
    let begun = async {
        while decodings(own) == 0 {
            assert!(poll!(server.next()).is_pending(), "nothing can come of it yet");
            tokio::task::yield_now().await;
        }
    };
    soon(begun).await;
}

/// JSON's requests have numbers of their own on a connection, from 0.
fn first_id(id: u64) -> u64 {
    id.min(1)
}

#[test]
fn nobody_waits_for_the_long_request_of_another_connection() {
    local(others_do_not_wait::<Frames>("frames"));
    local(others_do_not_wait::<Lines>("lines"));
}

async fn held<S: Speaks>(own: &str) {
    let limits = Limits { in_flight: 1, ..Limits::default() };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut server = S::server(theirs, &limits, &Decoder::default());
    ours.write_all(&S::request(1, "short")).await.unwrap();
    let (_, first) = next(&mut server).await;
    open(own);
    ours.write_all(&S::request(2, &long(own))).await.unwrap();
    begins(&mut server, own).await;
    drop(ours);
    assert!(tokio::time::timeout(Duration::from_millis(50), server.next()).await.is_err());
    drop(first);
    assert_eq!(name(&next(&mut server).await.1), own);
}

#[test]
fn a_long_request_waits_for_its_permit_decoded_and_outlives_the_end_of_input() {
    local(held::<Frames>("held-frames"));
    local(held::<Lines>("held-lines"));
}

#[test]
fn connections_of_one_client_have_their_long_requests_decoded_one_at_a_time() {
    local(async {
        let decoder = Decoder::default();
        let mut connections: Vec<_> = (0..4)
            .map(|_| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (ours, Frames::server(theirs, &Limits::default(), &decoder))
            })
            .collect();
        for (index, (ours, server)) in connections.iter_mut().enumerate() {
            ours.write_all(&Frames::request(1, &long(&format!("turn-{index}")))).await.unwrap();
            assert!(poll!(server.next()).is_pending());
        }
        // One that is gone has no turn.
        connections.remove(1);
        for (index, done) in [0, 2, 3].into_iter().zip(1..) {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            // And some time more, for one that should not begin.
            let mut turns_left = 200;
            while turns_left > 0 {
                assert!(tokio::time::Instant::now() < deadline, "{done} are not begun");
                for (_, server) in &mut connections {
                    assert!(!matches!(poll!(server.next()), Poll::Ready(None)));
                }
                tokio::time::sleep(Duration::from_micros(100)).await;
                turns_left -= usize::from(decodings("turn-") >= done);
            }
            assert_eq!(decodings("turn-"), done, "at once");
            open(&format!("turn-{index}"));
        }
        assert_eq!(decodings("turn-1"), 0);
    });
}

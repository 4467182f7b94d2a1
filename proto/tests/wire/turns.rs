//! Connections of one thread take turns: one that sends without end does not keep the others waiting.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use futures::{SinkExt, StreamExt, poll};
use task_proto::limits::{Limits, READ, STRETCH, STRETCH_READS, STRETCH_TIME};
use task_proto::wire::{self, Decoder, FdStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::json::METHODS;
use crate::local;
use crate::support::*;

/// As many of these bytes as the socket takes.
fn fill(socket: &UnixStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while let Ok(count) = socket.try_write(bytes) {
        sent += count;
    }
    sent
}

#[test]
fn a_call_is_heard_while_another_connection_has_thousands_in_its_socket() {
    local(async {
        let [(mut flood, flooded), (victim, served)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        flood.writable().await.unwrap();
        let line = b"{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}\n";
        let flood_calls = fill(&flood, &line.repeat(100)) / line.len();
        assert!(flood_calls > 100 * STRETCH / 4, "{flood_calls}");

        let calls = Rc::new(Cell::new(0));
        let call = victim.into_std().unwrap();
        let call = Rc::new(move || (&call).write_all(line).unwrap());
        let flooding = {
            let calls = Rc::clone(&calls);
            tarpc::server::serve(move |_, _: ProbeRequest| async move {
                calls.set(calls.get() + 1);
                // The other's call comes when the flood is being read.
                if calls.get() == 1 {
                    call();
                }
                Ok(ProbeResponse::Panic(()))
            })
        };
        let heard = Rc::new(Cell::new(None));
        let serving = {
            let (calls, heard) = (Rc::clone(&calls), Rc::clone(&heard));
            tarpc::server::serve(move |_, _: ProbeRequest| async move {
                heard.set(Some(calls.get()));
                Ok(ProbeResponse::Panic(()))
            })
        };
        let limits = Limits::default();
        let end = |socket| {
            wire::json_server(FdStream::new(socket, 0).unwrap(), &limits, METHODS, &Decoder::default())
        };
        let (flooded, served) = (end(flooded), end(served));
        let flooding = tokio::task::spawn_local(converse(flooded, flooding));
        let _serving = tokio::task::spawn_local(converse(served, serving));
        flood.shutdown().await.unwrap();
        soon(flooding).await.unwrap();
        let heard = heard.get().expect("it was not heard at all");
        assert!(heard <= 3 * STRETCH, "after {heard} of {} calls", calls.get());
    });
}

#[test]
fn what_is_no_request_is_refused_in_turns_too() {
    local(async {
        let (mut flood, flooded) = UnixStream::pair().unwrap();
        flood.write_all(&b"1\n".repeat(4 * STRETCH)).await.unwrap();
        let mut server = wire::json_server(
            FdStream::new(flooded, 0).unwrap(),
            &Limits::default(),
            METHODS,
            &Decoder::default(),
        );
        let (mut refused, mut polls) = (0, 0);
        let mut replies = vec![0; 1 << 20];
        while refused < 4 * STRETCH {
            assert!(poll!(server.next()).is_pending());
            server.flush().await.unwrap();
            let count = flood.try_read(&mut replies).unwrap_or_default();
            let lines = str::from_utf8(&replies[..count]).unwrap().lines().count();
            assert!(lines <= STRETCH, "{lines} in a row");
            refused += lines;
            polls += 1;
            tokio::task::yield_now().await;
        }
        assert!(polls >= 4, "{polls}");
        assert_eq!(server.refused().unheard, 4 * STRETCH as u64, "each is counted");
    });
}

#[test]
fn a_long_message_is_read_with_pauses() {
    local(async {
        let (flood, flooded) = UnixStream::pair().unwrap();
        flood.writable().await.unwrap();
        let sent = fill(&flood, &vec![b' '; READ]);
        drop(flood);
        assert!(sent > STRETCH_READS * READ);
        let mut flooded = FdStream::new(flooded, 0).unwrap();
        flooded.first_byte().await.unwrap();
        let (mut read, mut in_a_row, mut pauses) = (0, 0, 0);
        let mut buffer = vec![0; READ];
        while read < sent {
            let ready = {
                let mut reading = Box::pin(flooded.read(&mut buffer));
                poll!(&mut reading)
            };
            match ready {
                std::task::Poll::Ready(count) => {
                    read += count.unwrap();
                    in_a_row += 1;
                    assert!(in_a_row <= STRETCH_READS, "{read} bytes in a row");
                }
                std::task::Poll::Pending => {
                    (in_a_row, pauses) = (0, pauses + 1);
                    tokio::task::yield_now().await;
                }
            }
        }
        assert!(pauses >= sent / READ / STRETCH_READS - 1, "{pauses}");
    });
}

#[test]
fn replies_to_what_came_together_leave_together_though_others_have_their_turns_meanwhile() {
    local(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (handler, _) = Handler::new();
        serve(theirs, &Limits::default(), handler.serve());
        let mut replies = vec![0; 1 << 20];
        let greeting = ours.read(&mut replies).await.unwrap();
        assert!(greeting > 0);
        let day = Duration::from_hours(24);
        let calls = 3 * STRETCH as u64;
        let requests: Vec<_> =
            (0..calls).flat_map(|id| framed(&request(id, day, ProbeRequest::Grow { bytes: 1 }))).collect();
        ours.write_all(&requests).await.unwrap();
        let read = soon(ours.read(&mut replies)).await.unwrap();
        let mut raw = &replies[..read];
        let mut answered = 0;
        while let Some((length, rest)) = raw.split_first_chunk() {
            raw = &rest[u32::from_be_bytes(*length) as usize..];
            answered += 1;
        }
        assert_eq!(answered, calls, "of {calls}, with the first write");
    });
}

#[test]
fn a_slow_message_ends_a_stretch_however_few_came_before_it() {
    local(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let day = Duration::from_hours(24);
        for id in 0..8 {
            ours.write_all(&framed(&request(id, day, ProbeRequest::Grow { bytes: 1 }))).await.unwrap();
        }
        let mut server = wire::server::<ProbeRequest, ProbeResponse>(
            FdStream::new(theirs, 0).unwrap(),
            &Limits::default(),
            &Decoder::default(),
        );
        server.next().await.unwrap().unwrap();
        std::thread::sleep(2 * STRETCH_TIME);
        assert!(poll!(server.next()).is_pending(), "others have their turn");
        soon(server.next()).await.unwrap().unwrap();
    });
}

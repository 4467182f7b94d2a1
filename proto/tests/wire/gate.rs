//! The gate: at most so many calls in flight, the rest queue, and nothing that the client says goes unseen.

use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use tarpc::ClientMessage;
use tarpc::server::{BaseChannel, Channel};
use task_proto::limits::Limits;
use task_proto::wire::{self, Decoder, FdStream};
use tokio::net::UnixStream;

use crate::local;
use crate::support::*;

const LONG: Duration = Duration::from_hours(24);

fn gate(in_flight: usize) -> Limits {
    Limits { in_flight, ..Limits::default() }
}

#[test]
fn calls_over_the_limit_queue_and_are_answered_in_turn() {
    local(async {
        let Pair { client, handler, mut events } = pair(&gate(2));
        let calls = join_all((0..5).map(|name| client.wait(within(LONG), name)));
        let (answers, ()) = soon(async {
            tokio::join!(calls, async {
                assert_eq!(events.recv().await, Some(Event::Started(0)));
                assert_eq!(events.recv().await, Some(Event::Started(1)));
                for next in 2..5 {
                    // Nothing else starts before one has ended.
                    handler.release.add_permits(1);
                    assert!(matches!(events.recv().await, Some(Event::Ended(_))));
                    assert_eq!(events.recv().await, Some(Event::Started(next)));
                }
                handler.release.add_permits(2);
            })
        })
        .await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);

        let (ours, theirs) = UnixStream::pair().unwrap();
        let transport = tarpc::serde_transport::new(
            frames(theirs, 1 << 20),
            tokio_serde::formats::MessagePack::default(),
        );
        let (handler, mut events) = Handler::new();
        let stock = BaseChannel::with_defaults(transport).max_concurrent_requests(1).execute(handler.serve());
        tokio::task::spawn_local(stock.for_each(|answer| async {
            tokio::task::spawn_local(answer);
        }));
        let client = stock_connect(ours).0;
        let first = client.clone();
        tokio::task::spawn_local(async move { first.wait(within(LONG), 0).await });
        soon(events.recv()).await;
        assert_eq!(refusal(soon(client.wait(within(LONG), 1)).await).kind, ErrorKind::WouldBlock);
    });
}

#[test]
fn while_full_a_deadline_ends_a_call_and_frees_its_permit() {
    local(async {
        let Pair { client, mut events, .. } = pair(&gate(1));
        let first = client.wait(within(Duration::from_millis(100)), 1);
        let queued = client.echo(within(LONG), vec![1.0]);
        let (first, queued) = soon(Box::pin(async { tokio::join!(first, queued) })).await;
        assert!(first.is_err());
        assert_eq!(queued.unwrap(), [1.0]);
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        assert_eq!(soon(events.recv()).await, Some(Event::Ended(1)));
    });
}

#[test]
fn while_full_a_cancel_ends_a_call_and_frees_its_permit() {
    local(async {
        let Pair { client, mut events, .. } = pair(&gate(1));
        let first = tokio::task::spawn_local({
            let client = client.clone();
            async move { client.wait(within(LONG), 1).await }
        });
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        let queued = client.echo(within(LONG), vec![1.0]);
        let (queued, ()) = soon(async { tokio::join!(queued, async { first.abort() }) }).await;
        assert_eq!(queued.unwrap(), [1.0]);
        assert_eq!(soon(events.recv()).await, Some(Event::Ended(1)));
    });
}

#[test]
fn a_call_cancelled_while_it_waits_never_starts() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        serve(theirs, &gate(1), handler.clone().serve());
        let mut raw = Raw::new(ours);
        for name in 1..4 {
            raw.send(request(name.into(), LONG, ProbeRequest::Wait { name })).await;
        }
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        // Messages are taken in order: when the first call has ended, the cancel of the second was seen.
        raw.send(cancel(2)).await;
        raw.send(cancel(1)).await;
        assert_eq!(soon(events.recv()).await, Some(Event::Ended(1)));
        assert_eq!(soon(events.recv()).await, Some(Event::Started(3)));
        handler.release.add_permits(1);
        assert_eq!(raw.reply().await.unwrap().request_id, 3);
        assert_eq!(soon(events.recv()).await, Some(Event::Ended(3)));
        assert!(events.try_recv().is_err());
    });
}

#[test]
fn a_call_whose_deadline_passes_while_it_waits_never_starts() {
    local(async {
        let Pair { client, handler, mut events } = pair(&gate(1));
        let first = tokio::task::spawn_local({
            let client = client.clone();
            async move { client.wait(within(LONG), 1).await }
        });
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        assert!(soon(client.wait(within(Duration::from_millis(50)), 2)).await.is_err());
        handler.release.add_permits(1);
        assert_eq!(soon(first).await.unwrap().unwrap(), 1);
        assert_eq!(soon(client.echo(within(LONG), vec![1.0])).await.unwrap(), [1.0]);
        assert_eq!(soon(events.recv()).await, Some(Event::Ended(1)));
        assert!(events.try_recv().is_err());
    });
}

#[test]
fn while_full_a_hang_up_ends_the_calls() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        let end = serve(theirs, &gate(1), handler.serve());
        let mut raw = Raw::new(ours);
        for name in 1..4 {
            raw.send(request(name.into(), LONG, ProbeRequest::Wait { name })).await;
        }
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        drop(raw);
        assert_eq!(soon(events.recv()).await, Some(Event::Ended(1)));
        assert!(matches!(soon(end).await.unwrap(), End::HungUp));
        assert_eq!(events.recv().await, None);
    });
}

#[test]
fn a_client_that_only_stops_sending_gets_all_its_answers() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        let end = serve(theirs, &gate(1), handler.clone().serve());
        let mut raw = Raw::new(ours);
        for name in 1..4 {
            raw.send(request(name.into(), LONG, ProbeRequest::Wait { name })).await;
        }
        futures::SinkExt::<bytes::Bytes>::close(&mut raw.0).await.unwrap();
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        handler.release.add_permits(3);
        for id in 1..4 {
            assert_eq!(raw.reply().await.unwrap().request_id, id);
        }
        assert!(raw.reply().await.is_none());
        assert!(matches!(soon(end).await.unwrap(), End::Served));
    });
}

#[test]
fn a_panic_a_duplicate_and_an_undecodable_request_give_their_permits_back() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        serve(theirs, &gate(2), handler.serve());
        let mut raw = Raw::new(ours);
        raw.send(request(1, LONG, ProbeRequest::Wait { name: 1 })).await;
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        for id in 2..10 {
            // tarpc drops a request whose id is in flight, without a word.
            raw.send(request(1, LONG, ProbeRequest::Wait { name: 1 })).await;
            raw.send(request(2 * id, LONG, "NoSuchMethod")).await;
            assert!(raw.reply().await.unwrap().message.is_err());
            raw.send(request(2 * id + 1, LONG, ProbeRequest::Panic { message: "boom".into() })).await;
            assert!(raw.reply().await.unwrap().message.is_err());
        }
        raw.send(request(99, LONG, ProbeRequest::Grow { bytes: 1 })).await;
        assert_eq!(raw.reply().await.unwrap().request_id, 99);
    });
}

#[test]
fn what_is_held_back_is_bounded_and_nothing_of_it_is_lost() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let limits = Limits { held: 64 * 1024, ..gate(1) };
        let mut transport = wire::server::<ProbeRequest, ProbeResponse>(
            FdStream::new(theirs, 16).unwrap(),
            &limits,
            &Decoder::default(),
        );
        let mut sent = 0;
        let mut stuck = 0;
        let mut first = None;
        // Until the server has taken nothing for many turns, or far more than it may hold.
        while stuck < 100 && sent < 20_000 {
            let echo = ProbeRequest::Echo { values: vec![0.5; 100] };
            let frame = framed(&request(sent, LONG, echo));
            if let Ok(count) = ours.try_write(&frame) {
                assert_eq!(count, frame.len(), "the test's own writes are to be whole or not at all");
                sent += 1;
                stuck = 0;
                continue;
            }
            stuck += 1;
            tokio::task::yield_now().await;
            if let Poll::Ready(request) = futures::poll!(transport.next()) {
                assert!(first.replace(request).is_none(), "a second request without a permit");
            }
        }
        assert!(sent < 5_000, "{sent} requests of some 1 KB were taken");
        drop(first);
        for id in 1..sent {
            match soon(transport.next()).await.unwrap().unwrap() {
                ClientMessage::Request(request) => assert_eq!(request.id, id),
                _ => panic!("not a request"),
            }
        }
    });
}

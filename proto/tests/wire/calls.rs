//! The calls in flight: where their answers wait, and who is told of them.

use std::cell::Cell;
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use task_proto::limits::Limits;
use task_proto::wire::{self, Decoder, FdStream};
use tokio::net::UnixStream;
use tokio::task::{spawn_local, yield_now};

use crate::local;
use crate::support::*;

const LONG: Duration = Duration::from_hours(24);
const REQUESTS: u64 = 200;
const IN_FLIGHT: usize = 4;

/// A client that reads no replies, of which each is larger than what a transport holds back; and how many of its requests
/// have been executed, which is no more from here on.
async fn stuck(in_flight: usize, requests: u64) -> (Raw, Rc<Cell<u64>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let limits = Limits { in_flight, ..Limits::default() };
    let transport = wire::server(FdStream::new(theirs, 0).unwrap(), &limits, &Decoder::default());
    let executed = Rc::new(Cell::new(0));
    let counted = Rc::clone(&executed);
    spawn_local(converse(
        transport,
        tarpc::server::serve(move |_, _: ProbeRequest| {
            counted.set(counted.get() + 1);
            ready(Ok(ProbeResponse::Grow("x".repeat(64 * 1024))))
        }),
    ));
    let mut raw = Raw::new(ours);
    for id in 0..requests {
        raw.send(request(id, LONG, ProbeRequest::Grow { bytes: 0 })).await;
    }
    settle(&executed).await;
    (raw, executed)
}

/// Until nothing has happened for many turns.
async fn settle(executed: &Cell<u64>) {
    let (mut seen, mut turns) = (0, 0);
    while turns < 500 {
        yield_now().await;
        turns = if executed.get() == seen { turns + 1 } else { 0 };
        seen = executed.get();
    }
}

/// The numbers of all replies that come.
async fn heard(mut raw: Raw) -> Vec<u64> {
    SinkExt::<Bytes>::close(&mut raw.0).await.unwrap();
    let mut heard = Vec::new();
    while let Some(reply) = raw.reply().await {
        heard.push(reply.request_id);
    }
    heard
}

#[test]
fn an_answer_that_the_transport_does_not_take_keeps_its_permit() {
    local(async {
        let (raw, executed) = stuck(IN_FLIGHT, REQUESTS).await;
        // The socket takes some.
        assert!(executed.get() < 50, "{} are executed of which nobody reads the replies", executed.get());
        assert_eq!(heard(raw).await, (0..REQUESTS).collect::<Vec<_>>());
        assert_eq!(executed.get(), REQUESTS);
    });
}

#[test]
fn an_answer_that_waits_is_not_sent_once_its_call_is_cancelled() {
    local(async {
        let (mut raw, executed) = stuck(IN_FLIGHT, REQUESTS).await;
        // The last ones that were executed: their answers wait.
        let before = executed.get();
        let cancelled = [before - 1, before - 3];
        for id in cancelled {
            raw.send(cancel(id)).await;
        }
        settle(&executed).await;
        // Each has made room for another.
        assert_eq!(executed.get(), before + 2);
        let answered = (0..REQUESTS).filter(|id| !cancelled.contains(id));
        assert_eq!(heard(raw).await, answered.collect::<Vec<_>>());
    });
}

#[test]
fn a_request_whose_answer_waits_is_not_executed_again() {
    local(async {
        let requests = 50;
        let (mut raw, executed) = stuck(2 * requests as usize, requests).await;
        assert_eq!(executed.get(), requests, "there are permits for more");
        for id in [requests - 1, requests - 2] {
            raw.send(request(id, LONG, ProbeRequest::Grow { bytes: 0 })).await;
        }
        settle(&executed).await;
        assert_eq!(executed.get(), requests);
        assert_eq!(heard(raw).await, (0..requests).collect::<Vec<_>>());
    });
}

#[test]
fn the_last_answers_are_sent_before_the_connection_ends() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        let end = serve(theirs, &Limits::default(), handler.clone().serve());
        let mut raw = Raw::new(ours);
        raw.send(request(1, LONG, ProbeRequest::Wait { name: 1 })).await;
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        raw.0.feed(Bytes::from(request(2, LONG, ProbeRequest::Grow { bytes: 1 }))).await.unwrap();
        SinkExt::<Bytes>::close(&mut raw.0).await.unwrap();
        assert_eq!(raw.reply().await.unwrap().request_id, 2);
        assert!(!end.is_finished(), "one is in flight");
        handler.release.add_permits(1);
        assert_eq!(raw.reply().await.unwrap().request_id, 1);
        assert!(raw.reply().await.is_none());
        assert!(matches!(soon(end).await.unwrap(), End::Served));
    });
}

#[test]
fn a_deadline_counts_from_when_its_request_came() {
    local(async {
        let time = Duration::from_secs(1);
        let Pair { client, handler, mut events } = pair(&Limits { in_flight: 1, ..Limits::default() });
        // On a connection that is older than that.
        tokio::time::sleep(time + Duration::from_millis(100)).await;
        // The second one is held until the first is answered.
        let calls = (client.wait(within(time), 1), client.wait(within(time), 2));
        let release = async {
            for name in [1, 2] {
                assert_eq!(events.recv().await, Some(Event::Started(name)));
                yield_now().await;
                handler.release.add_permits(1);
                assert_eq!(events.recv().await, Some(Event::Ended(name)));
            }
        };
        let (first, second, ()) = soon(Box::pin(async { tokio::join!(calls.0, calls.1, release) })).await;
        assert_eq!((first.unwrap(), second.unwrap()), (1, 2));
    });
}

//! Draining: a server that stops reading answers what was sent, and the client knows what was not.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustix::net::{Shutdown, shutdown};
use tarpc::client::RpcError;
use tarpc::{ClientMessage, Request};
use task_proto::limits::Limits;
use task_proto::wire::{self, ClientTransport, FdStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::local;
use crate::support::*;

const LONG: Duration = Duration::from_hours(24);

/// A client and a server whose socket the test can close for reading, as a drain does.
fn drained_pair()
-> (ProbeClient<Client>, std::os::fd::OwnedFd, Handler, tokio::sync::mpsc::UnboundedReceiver<Event>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let socket = theirs.as_fd().try_clone_to_owned().unwrap();
    let (handler, events) = Handler::new();
    serve(theirs, &Limits::default(), handler.clone().serve());
    (ProbeClient::from(connect(ours, &Limits::default())), socket, handler, events)
}

fn never_sent(error: &RpcError) -> bool {
    match error {
        RpcError::Server(error) => {
            error.kind == ErrorKind::BrokenPipe && error.detail.starts_with("never sent")
        }
        RpcError::Send(error) => error.to_string().starts_with("never sent"),
        _ => false,
    }
}

#[test]
fn requests_sent_before_a_drain_are_answered_and_later_ones_fail_at_once_as_never_sent() {
    local(async {
        let (client, socket, handler, mut events) = drained_pair();
        let waiting = tokio::task::spawn_local({
            let client = client.clone();
            async move { client.wait(within(LONG), 1).await }
        });
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        shutdown(&socket, Shutdown::Read).unwrap();
        for _ in 0..3 {
            let error = soon(client.echo(within(LONG), vec![1.0])).await.unwrap_err();
            assert!(never_sent(&error), "{error:?}");
        }
        handler.release.add_permits(1);
        assert_eq!(soon(waiting).await.unwrap().unwrap(), 1);
        drop(socket);
        assert!(soon(client.echo(within(LONG), vec![1.0])).await.is_err());
    });
}

#[test]
fn a_request_cut_off_by_a_drain_is_never_sent_and_costs_no_other() {
    local(async {
        // A request larger than what the socket holds: part of it is written when the server stops reading.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let limits = Limits::default();
        let client = connect::<ProbeRequest, ProbeResponse>(ours, &limits);
        let call = client.call(within(LONG), ProbeRequest::Echo { values: vec![0.5; 100_000] });
        let (error, ()) = soon(async {
            tokio::join!(call, async {
                theirs.readable().await.unwrap();
                shutdown(&theirs, Shutdown::Read).unwrap();
                theirs.read_to_end(&mut Vec::new()).await.unwrap();
            })
        })
        .await;
        let error = error.unwrap_err();
        assert!(never_sent(&error), "{error:?}");

        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        serve(theirs, &limits, handler.clone().serve());
        let whole = framed(&request(1, LONG, ProbeRequest::Wait { name: 1 }));
        ours.write_all(&whole).await.unwrap();
        ours.write_all(&whole[..20]).await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        handler.release.add_permits(1);
        assert_eq!(Raw::new(ours).reply().await.unwrap().request_id, 1);
    });
}

#[test]
fn a_request_that_waits_to_be_written_when_the_connection_ends_is_never_sent() {
    local(async {
        for kind in [None, Some(ErrorKind::ConnectionReset)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut transport: ClientTransport<_, ProbeResponse> =
                wire::client(FdStream::new(ours, 0).unwrap(), &Limits::default());
            let request = |id| {
                let message = ProbeRequest::Wait { name: id };
                ClientMessage::Request(Request { context: within(LONG), id: u64::from(id), message })
            };
            if kind.is_some() {
                // A socket closed on unread bytes resets its connection.
                transport.send(request(1)).await.unwrap();
            }
            transport.feed(request(2)).await.unwrap();
            drop(theirs);
            let reply = soon(transport.next()).await.unwrap().unwrap();
            let error = RpcError::Server(reply.message.unwrap_err());
            assert!(reply.request_id == 2 && never_sent(&error), "{error:?}");
            let end = soon(transport.next()).await.transpose().map_err(|error| error.kind());
            assert_eq!(end.map(|reply| reply.is_some()).err(), kind);
        }
    });
}

#[test]
fn a_stock_client_loses_the_answers_of_a_draining_server() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = theirs.as_fd().try_clone_to_owned().unwrap();
        let (handler, mut events) = Handler::new();
        serve(theirs, &Limits::default(), handler.serve());
        let (stock, _) = stock_connect(ours);
        let waiting = tokio::task::spawn_local({
            let stock = stock.clone();
            async move { stock.wait(within(LONG), 1).await }
        });
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        shutdown(&socket, Shutdown::Read).unwrap();
        assert!(soon(stock.echo(within(LONG), vec![1.0])).await.is_err());
        assert!(soon(waiting).await.unwrap().is_err());
    });
}

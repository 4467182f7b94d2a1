//! The greeting: what a client knows of who serves it, and of a connection that was cut.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tarpc::trace::SamplingDecision::{Sampled, Unsampled};
use tarpc::{ClientMessage, Request};
use task_proto::limits::Limits;
use task_proto::wire::{self, ClientTransport, Decoder, FdStream, Greeting};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::local;
use crate::support::*;

const LONG: Duration = Duration::from_hours(24);

type Wire = ClientTransport<ProbeRequest, ProbeResponse>;

fn client(socket: UnixStream) -> Wire {
    wire::client(FdStream::new(socket, 0).unwrap(), &Limits::default())
}

async fn ask(client: &mut Wire, id: u64) {
    let request = Request { context: within(LONG), id, message: ProbeRequest::Grow { bytes: 1 } };
    client.send(ClientMessage::Request(request)).await.unwrap();
}

/// The bytes of a greeting, as a server writes them.
async fn bytes_of_a_greeting() -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut server = wire::server::<ProbeRequest, ProbeResponse>(
        FdStream::new(theirs, 0).unwrap(),
        &Limits::default(),
        &Decoder::default(),
    );
    server.greet(&greeting()).await.unwrap();
    drop(server);
    let mut bytes = Vec::new();
    ours.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[test]
fn the_first_message_says_who_serves_and_no_request_is_needed_for_it() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        serve(theirs, &Limits::default(), Handler::new().0.serve());
        let first = Raw::new(ours).message().await.unwrap();
        assert_eq!(first.request_id, GREETING_ID);
        let said = first.message.unwrap_err().detail;
        assert_eq!(said, r#"{"instance":"run-1","generation":7,"connection":3}"#);
    });
}

#[test]
fn our_client_knows_who_serves_it_by_the_first_reply_and_gets_replies_only() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        serve(theirs, &Limits::default(), Handler::new().0.serve());
        let mut client = client(ours);
        let known = client.greeting();
        ask(&mut client, 3).await;
        assert_eq!(soon(client.next()).await.unwrap().unwrap().request_id, 3);
        assert_eq!(known.get(), Some(&greeting()));
    });
}

#[test]
fn a_stock_client_is_not_disturbed_by_the_greeting() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        serve(theirs, &Limits::default(), Handler::new().0.serve());
        let (stock, dispatch) = stock_connect(ours);
        for value in [1.0, 2.0] {
            assert_eq!(soon(stock.echo(within(LONG), vec![value])).await.unwrap(), [value]);
        }
        drop(stock);
        assert!(soon(dispatch).await.unwrap(), "it ends well");
    });
}

#[test]
fn a_connection_cut_before_the_whole_greeting_leaves_none() {
    local(async {
        let whole = bytes_of_a_greeting().await;
        for sent in [0, 1, whole.len() - 1, whole.len()] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut client = client(ours);
            let known = client.greeting();
            ask(&mut client, 1).await;
            theirs.write_all(&whole[..sent]).await.unwrap();
            // With the request unread, as of a server that is killed: the client may see an end or an error.
            drop(theirs);
            assert!(!matches!(soon(client.next()).await, Some(Ok(_))), "no reply");
            assert_eq!(known.get().is_some(), sent == whole.len(), "{sent} bytes of {}", whole.len());
        }
    });
}

#[test]
fn a_greeting_of_a_later_version_tells_that_somebody_serves_but_not_who() {
    local(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = client(ours);
        let known = client.greeting();
        for (id, message) in
            [(GREETING_ID, Err((16_u32, "not JSON"))), (5, Ok(serde_json::json!({"Grow": "x"})))]
        {
            let reply: (u64, Result<serde_json::Value, _>) = (id, message);
            theirs.write_all(&framed(&rmp_serde::to_vec(&reply).unwrap())).await.unwrap();
        }
        assert_eq!(soon(client.next()).await.unwrap().unwrap().request_id, 5);
        assert_eq!(known.get(), Some(&Greeting::default()));
    });
}

#[test]
fn a_server_of_ours_is_sent_no_trace_where_there_is_none_and_a_stranger_always_one() {
    local(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = client(ours);
        let ask = async |client: &mut Wire, theirs: &mut UnixStream, trace: u128, sampling_decision| {
            let mut context = within(LONG);
            context.trace_context.trace_id = trace.into();
            context.trace_context.sampling_decision = sampling_decision;
            let request = Request { context, id: 1, message: ProbeRequest::Grow { bytes: 1 } };
            client.send(ClientMessage::Request(request)).await.unwrap();
            let mut frame = vec![0; theirs.read_u32().await.unwrap() as usize];
            theirs.read_exact(&mut frame).await.unwrap();
            frame.windows(13).any(|part| part == b"trace_context")
        };
        assert!(ask(&mut client, &mut theirs, 0, Unsampled).await, "nobody has said who serves");
        theirs.write_all(&bytes_of_a_greeting().await).await.unwrap();
        let reply: (u64, Result<serde_json::Value, ()>) = (1, Ok(serde_json::json!({"Grow": "x"})));
        theirs.write_all(&framed(&rmp_serde::to_vec(&reply).unwrap())).await.unwrap();
        soon(client.next()).await.unwrap().unwrap();
        assert!(!ask(&mut client, &mut theirs, 0, Unsampled).await);
        assert!(ask(&mut client, &mut theirs, 7, Unsampled).await);
        assert!(ask(&mut client, &mut theirs, 0, Sampled).await, "who follows a call wants it logged");
    });
}

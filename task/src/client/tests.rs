//! What a client does about servers that do not keep to the manners of ours, each end of whose connections is scripted.

use std::io::PipeWriter;

use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{Shutdown, shutdown};
use serde::Deserialize;
use tarpc::{ClientMessage, Response};
use task_proto::wire::{ConnectError, Decoder, FdStream, Greeting, ServerTransport};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::*;

/// For any answer: on a loaded machine everything takes its time.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
struct Ask(String);

impl RequestName for Ask {
    fn name(&self) -> &'static str {
        "ask"
    }
}

type Server = ServerTransport<Ask, String>;

fn small() -> Ask {
    Ask("small".into())
}

/// More than a socket takes: whoever sends it finds out when the other end does not read.
fn big() -> Ask {
    Ask("x".repeat(900_000))
}

struct Fake {
    home: TempDir,
    listener: UnixListener,
}

impl Fake {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("rpc.sock")).unwrap();
        Fake { home, listener }
    }

    fn client(&self, attachments: Vec<OwnedFd>) -> Client<Ask, String> {
        Client::at(self.home.path().join("rpc.sock"), attachments, |_| true)
    }

    /// A client with a pipe. The host's word on lost connections is nowhere to be had.
    fn client_with_pipe(&self) -> (Client<Ask, String>, PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        (self.client(vec![reader.into()]), writer)
    }

    async fn accept(&self) -> Server {
        let (stream, _) = self.listener.accept().await.unwrap();
        wire::server(FdStream::new(stream, 16).unwrap(), &Limits::default(), &Decoder::default())
    }

    async fn greeted(&self) -> Server {
        let mut server = self.accept().await;
        server.greet(&Greeting::default()).await.unwrap();
        server
    }

    /// Takes no more of what its client sends.
    async fn refused(&self) -> Server {
        let mut server = self.greeted().await;
        refuse(&mut server).await;
        server
    }
}

/// As a worker that drains: takes no more, and reads what was sent.
async fn refuse(server: &mut Server) {
    shutdown(server.as_fd(), Shutdown::Read).unwrap();
    assert!(server.next().await.is_none(), "half a request is none");
}

async fn next(server: &mut Server) -> (u64, Context) {
    match server.next().await {
        Some(Ok(ClientMessage::Request(request))) => (request.id, request.context),
        Some(Ok(_)) => panic!("no request"),
        other => panic!("{:?}", other.map(Result::err)),
    }
}

async fn answer(server: &mut Server) {
    let (request_id, _) = next(server).await;
    server.send(Response { request_id, message: Ok("the answer".into()) }).await.unwrap();
}

/// Both, unless one waits in vain for the other.
async fn meanwhile<T: std::fmt::Debug, S>(
    calls: impl Future<Output = T>,
    serve: impl Future<Output = S>,
) -> (T, S) {
    let (mut calls, mut serve) = (pin!(calls), pin!(serve));
    tokio::select! {
        biased;
        served = &mut serve => (calls.await, served),
        ended = &mut calls => match timeout(LIMIT, serve).await {
            Ok(served) => (ended, served),
            Err(late) => panic!("{ended:?}, and nothing more came: {late}"),
        },
    }
}

fn asked(limit: Duration) -> Context {
    context(7, Some(limit))
}

#[tokio::test]
async fn a_pipe_goes_with_a_request_that_was_never_sent_to_the_next_connection() {
    let fake = Fake::new();
    let (client, _writer) = fake.client_with_pipe();
    let serve = Box::pin(async {
        let first = fake.refused().await;
        answer(&mut fake.greeted().await).await;
        drop(first);
    });
    let (answer, ()) = meanwhile(client.call(asked(LIMIT), big()), serve).await;
    assert_eq!(answer.unwrap(), "the answer");
}

#[tokio::test]
async fn a_pipe_goes_with_all_requests_that_were_never_sent_to_the_next_connection() {
    let fake = Fake::new();
    let (client, _writer) = fake.client_with_pipe();
    let serve = async {
        // It has not greeted yet when they find out.
        let mut first = fake.accept().await;
        refuse(&mut first).await;
        let mut second = fake.greeted().await;
        for _ in 0..3 {
            answer(&mut second).await;
        }
        (first, second)
    };
    let call = || client.call(asked(LIMIT), big());
    let calls = async { tokio::join!(call(), call(), call()) };
    let ((one, two, three), _servers) = Box::pin(meanwhile(calls, serve)).await;
    for answer in [one, two, three] {
        assert_eq!(answer.unwrap(), "the answer");
    }
}

#[tokio::test]
async fn a_pipe_stays_where_another_call_may_yet_begin_it_even_if_nobody_has_greeted() {
    let fake = Fake::new();
    let (client, _writer) = fake.client_with_pipe();
    let mut first = Box::pin(client.call(asked(LIMIT), small()));
    assert!(futures::poll!(&mut first).is_pending());
    let serve = async {
        let mut server = fake.accept().await;
        let (request_id, _) = next(&mut server).await;
        refuse(&mut server).await;
        (server, request_id)
    };
    let (other, (mut server, request_id)) = tokio::select! {
        both = async { tokio::join!(client.call(asked(LIMIT), big()), serve) } => both,
        answer = &mut first => panic!("{answer:?}"),
    };
    assert!(matches!(other, Err(CallError::InputConsumed { bytes: None, death: None })), "{other:?}");
    server.greet(&Greeting::default()).await.unwrap();
    server.send(Response { request_id, message: Ok("the answer".into()) }).await.unwrap();
    assert_eq!(first.await.unwrap(), "the answer");
    assert!(fake.listener.accept().now_or_never().is_none(), "nobody else was given the pipe");
}

#[tokio::test]
async fn calls_that_nobody_greeted_go_together_to_one_next_connection_with_their_pipe() {
    let fake = Fake::new();
    let (client, _writer) = fake.client_with_pipe();
    let serve = async {
        let mut first = fake.accept().await;
        next(&mut first).await;
        next(&mut first).await;
        drop(first);
        let mut second = fake.greeted().await;
        answer(&mut second).await;
        answer(&mut second).await;
        second
    };
    let call = || client.call(asked(LIMIT), small());
    let calls = async { tokio::join!(call(), call()) };
    let ((one, other), _server) = Box::pin(meanwhile(calls, serve)).await;
    assert_eq!((one.unwrap(), other.unwrap()), ("the answer".into(), "the answer".into()));
}

#[tokio::test]
async fn requests_that_cannot_be_sent_are_tried_for_ever_and_those_that_vanish_are_not() {
    let fake = Fake::new();
    let client = fake.client(Vec::new());
    let serve = async {
        for _ in 0..=RESENDS {
            fake.refused().await;
        }
        answer(&mut fake.greeted().await).await;
    };
    let (answer, ()) = meanwhile(client.call(asked(LIMIT), big()), serve).await;
    assert_eq!(answer.unwrap(), "the answer");

    let client = fake.client(Vec::new());
    let serve = async {
        loop {
            next(&mut fake.greeted().await).await;
        }
    };
    tokio::select! {
        answer = client.call(asked(LIMIT), small()) => {
            let error = answer.unwrap_err().to_string();
            assert!(error.contains("it was sent 101 times"), "{error}");
        }
        () = serve => {}
    }
}

#[tokio::test]
async fn whoever_is_always_turned_away_does_not_ask_all_the_time() {
    const SHORT: Duration = Duration::from_millis(500);
    let fake = Fake::new();
    let client = fake.client(Vec::new());
    let mut times = 0;
    let serve = async {
        loop {
            fake.refused().await;
            times += 1;
        }
    };
    tokio::select! {
        // Little more than a socket takes, so that it is the pauses that take their time.
        answer = client.call(asked(SHORT), Ask("x".repeat(300_000))) => {
            assert!(matches!(answer, Err(CallError::Deadline { .. })), "{answer:?}");
        }
        () = serve => {}
    }
    assert!((2..50).contains(&times), "{times} times within {SHORT:?}");
}

/// Closes a connection with bytes in it that nobody has read: its client gets ECONNRESET where it reads, and EPIPE where
/// it writes.
async fn hang_up_on_one(listener: &UnixListener) {
    let (stream, _) = listener.accept().await.unwrap();
    stream.readable().await.unwrap();
}

#[tokio::test]
async fn a_request_that_nobody_reads_or_greets_is_executed_by_the_next() {
    for request in [small, big] {
        let fake = Fake::new();
        let (client, _writer) = fake.client_with_pipe();
        let serve = async {
            hang_up_on_one(&fake.listener).await;
            answer(&mut fake.greeted().await).await;
        };
        let (answer, ()) = meanwhile(client.call(asked(LIMIT), request()), serve).await;
        assert_eq!(answer.unwrap(), "the answer");
    }
}

#[tokio::test]
async fn a_request_that_nobody_reads_or_greets_was_never_sent_where_nobody_follows() {
    for request in [small, big] {
        let Fake { home, listener } = Fake::new();
        let client = Client::<Ask, String>::at(home.path().join("rpc.sock"), Vec::new(), |_| true);
        let serve = async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop(listener);
            stream.readable().await.unwrap();
        };
        let (answer, ()) = meanwhile(client.call(asked(LIMIT), request()), serve).await;
        assert!(
            matches!(
                answer,
                Err(CallError::Unreachable { outcome: Outcome::NeverSent, cause: ConnectError::Refused, .. })
            ),
            "{answer:?}"
        );
    }
}

/// In a process of its own: other tests need descriptors.
#[test]
fn a_call_for_which_there_is_no_second_descriptor_was_never_sent() {
    let test = ["--exact", "client::tests::no_second_descriptor", "--ignored", "--nocapture"];
    let output = std::process::Command::new("/proc/self/exe").args(test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

#[tokio::test]
#[ignore = "uses up all descriptors"]
async fn no_second_descriptor() {
    let fake = Fake::new();
    let client = fake.client(Vec::new());
    let mut used: Vec<_> = std::iter::from_fn(|| fcntl_dupfd_cloexec(&fake.listener, 0).ok()).collect();
    // For the connection's own.
    used.pop();
    let error = client.call(asked(LIMIT), small()).await.unwrap_err();
    drop(used);
    let said = error.to_string();
    assert!(
        said.starts_with("never sent: cannot connect to /") && said.contains("Too many open files"),
        "{said}"
    );
}

#[tokio::test]
async fn a_deadline_tells_whether_the_request_had_been_sent() {
    const SHORT: Duration = Duration::from_millis(500);
    let fake = Fake::new();
    let client = fake.client(Vec::new());
    let serve = async {
        let mut server = fake.greeted().await;
        next(&mut server).await;
        server
    };
    let (answer, _server) = meanwhile(client.call(asked(SHORT), small()), serve).await;
    assert!(matches!(answer, Err(CallError::Deadline { outcome: Outcome::Unknown })), "{answer:?}");

    let fake = Fake::new();
    let client = fake.client(Vec::new());
    rustix::net::listen(&fake.listener, 0).unwrap();
    let serve = async {
        let mut server = fake.greeted().await;
        let waits = UnixStream::connect(fake.home.path().join("rpc.sock")).await.unwrap();
        refuse(&mut server).await;
        (server, waits)
    };
    let (answer, _server) = meanwhile(client.call(asked(SHORT), big()), serve).await;
    assert!(matches!(answer, Err(CallError::Deadline { outcome: Outcome::NeverSent })), "{answer:?}");
}

#[tokio::test]
async fn every_call_has_an_id_to_be_found_by() {
    let fake = Fake::new();
    let client = fake.client(Vec::new());
    let serve = async { next(&mut fake.greeted().await).await.1 };
    let context = tarpc::context::current();
    assert!(context.trace_context.trace_id.is_none());
    tokio::select! {
        answer = client.call(context, small()) => panic!("{answer:?}"),
        context = serve => assert!(!context.trace_context.trace_id.is_none()),
    }
}

#[tokio::test]
async fn a_client_that_is_dropped_sends_no_more() {
    let fake = Fake::new();
    let client = fake.client(Vec::new());
    let mut call = Box::pin(client.call(asked(LIMIT), big()));
    assert!(futures::poll!(&mut call).is_pending());
    let mut server = fake.accept().await;
    drop(call);
    drop(client);
    assert!(server.next().await.is_none(), "half a request is none");
}

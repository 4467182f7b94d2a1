//! A service to probe, servers and clients for it (ours and stock tarpc's), and frames written by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::client::{Config, RpcError};
use tarpc::server::{BaseChannel, Channel as _, Serve};
use tarpc::{Response, context, trace};
use task_proto::limits::Limits;
use task_proto::wire::{self, Calls, Decoder, Dialect, FdStream, Greeting, Hangup, Server};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_serde::formats::MessagePack;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

#[tarpc::service]
pub trait Probe {
    /// The same floats.
    async fn echo(values: Vec<f64>) -> Vec<f64>;
    /// A string of so many bytes.
    async fn grow(bytes: u32) -> String;
    /// Panics with this message.
    async fn panic(message: String);
    /// Says that it has started, and answers when the test lets it.
    async fn wait(name: u32) -> u32;
}

/// What happened to a `wait`.
#[derive(Debug, PartialEq)]
pub enum Event {
    Started(u32),
    /// Its future was dropped, however it ended.
    Ended(u32),
}

#[derive(Clone)]
pub struct Handler {
    events: mpsc::UnboundedSender<Event>,
    /// A `wait` answers for each permit.
    pub release: Arc<Semaphore>,
}

impl Handler {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, seen) = mpsc::unbounded_channel();
        (Handler { events, release: Arc::new(Semaphore::new(0)) }, seen)
    }
}

struct Ends(mpsc::UnboundedSender<Event>, u32);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Ended(self.1));
    }
}

impl Probe for Handler {
    async fn echo(self, _: context::Context, values: Vec<f64>) -> Vec<f64> {
        values
    }
    async fn grow(self, _: context::Context, bytes: u32) -> String {
        "x".repeat(bytes as usize)
    }
    async fn panic(self, _: context::Context, message: String) {
        panic!("{message}")
    }
    async fn wait(self, _: context::Context, name: u32) -> u32 {
        let _ends = Ends(self.events.clone(), name);
        let _ = self.events.send(Event::Started(name));
        self.release.acquire().await.unwrap().forget();
        name
    }
}

/// Whom [`serve`] serves as.
pub fn greeting() -> Greeting {
    Greeting { instance: "run-1".into(), generation: 7, connection: 3 }
}

/// The id of the reply that is a greeting.
pub const GREETING_ID: u64 = u64::MAX - 1;

/// How a connection ended for our server.
#[derive(Debug)]
pub enum End {
    Served,
    HungUp,
    Failed,
}

/// Serves one connection as a worker does.
pub fn serve<S>(socket: UnixStream, limits: &Limits, handler: S) -> JoinHandle<End>
where
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + Send + 'static>
        + Clone
        + Send
        + 'static,
{
    let mut transport =
        wire::server(FdStream::new(socket, limits.attachments).unwrap(), limits, &Decoder::default());
    // Local: a `Serve` of any kind need not have a `Send` future.
    tokio::task::spawn_local(async move {
        match transport.greet(&greeting()).await {
            Ok(()) => converse(transport, handler).await,
            Err(_) => End::Failed,
        }
    })
}

/// Serves the calls of a connection, whatever its client speaks.
pub async fn converse<D, S>(transport: Server<D>, handler: S) -> End
where
    D: Dialect<Req = S::Req, Resp = S::Resp>,
    S: Serve + Clone,
{
    let mut hangup = Hangup::new(&transport).unwrap();
    let mut calls = Calls::new(transport);
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = &mut hangup => return End::HungUp,
            Some(answered) = running.next() => calls.answer(answered),
            call = calls.next() => match call {
                Some(Ok(call)) => running.extend(calls.start(call, handler.clone()).await),
                Some(Err(_)) => return End::Failed,
                None => match calls.transport().farewell() {
                    Ok(()) => return End::Served,
                    Err(_) => return End::Failed,
                },
            },
        }
    }
}

pub type Channel<Req, Resp> = tarpc::client::Channel<Req, Resp>;
pub type Client = Channel<ProbeRequest, ProbeResponse>;

/// Our client for any service.
pub fn connect<Req, Resp>(socket: UnixStream, limits: &Limits) -> Channel<Req, Resp>
where
    Req: Serialize + tarpc::RequestName + Send + 'static,
    Resp: DeserializeOwned + Send + 'static,
{
    let transport = wire::client(FdStream::new(socket, limits.attachments).unwrap(), limits);
    tarpc::client::new(Config::default(), transport).spawn()
}

/// A client and a server of the probe, with the server's handler and its events.
pub struct Pair {
    pub client: ProbeClient<Client>,
    pub handler: Handler,
    pub events: mpsc::UnboundedReceiver<Event>,
}

pub fn pair(limits: &Limits) -> Pair {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (handler, events) = Handler::new();
    serve(theirs, limits, handler.clone().serve());
    Pair { client: ProbeClient::from(connect(ours, limits)), handler, events }
}

/// The same service by stock tarpc on stock tarpc's transport: what ours must not do, it does.
pub fn stock_serve(socket: UnixStream, frame: usize, handler: Handler) -> JoinHandle<()> {
    let transport = tarpc::serde_transport::new(frames(socket, frame), MessagePack::default());
    let serving = BaseChannel::with_defaults(transport).execute(handler.serve());
    tokio::spawn(serving.for_each(|answer| async {
        tokio::spawn(answer);
    }))
}

/// A stock client, with its dispatch.
pub fn stock_connect(socket: UnixStream) -> (ProbeClient, JoinHandle<bool>) {
    let transport = tarpc::serde_transport::new(frames(socket, 1 << 20), MessagePack::default());
    let tarpc::client::NewClient { client, dispatch } = ProbeClient::new(Config::default(), transport);
    (client, tokio::spawn(async move { dispatch.await.is_ok() }))
}

pub fn frames<S>(socket: S, limit: usize) -> Framed<S, LengthDelimitedCodec>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    LengthDelimitedCodec::builder().max_frame_length(limit).new_framed(socket)
}

#[derive(Serialize)]
struct RawContext {
    deadline: Duration,
    trace_context: trace::Context,
}

#[derive(Serialize)]
struct RawRequest<T> {
    context: RawContext,
    id: u64,
    message: T,
}

#[derive(Serialize)]
enum RawMessage<T> {
    Request(RawRequest<T>),
    Cancel { trace_context: trace::Context, request_id: u64 },
}

/// A request written by hand, without its length.
pub fn request(id: u64, deadline: Duration, message: impl Serialize) -> Vec<u8> {
    let context = RawContext { deadline, trace_context: trace::Context::default() };
    rmp_serde::to_vec(&RawMessage::Request(RawRequest { context, id, message })).unwrap()
}

/// A cancel written by hand, without its length.
pub fn cancel(request_id: u64) -> Vec<u8> {
    let cancel = RawMessage::<()>::Cancel { trace_context: trace::Context::default(), request_id };
    rmp_serde::to_vec(&cancel).unwrap()
}

/// A frame: length and content.
pub fn framed(content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

/// A connection on which the test writes its own frames.
pub struct Raw(pub Framed<UnixStream, LengthDelimitedCodec>);

impl Raw {
    pub fn new(socket: UnixStream) -> Self {
        Raw(frames(socket, 1 << 20))
    }

    pub async fn send(&mut self, content: Vec<u8>) {
        self.0.send(bytes::Bytes::from(content)).await.unwrap();
    }

    /// The next reply to a request; `None` at the end.
    pub async fn reply(&mut self) -> Option<Response<ProbeResponse>> {
        loop {
            let reply = self.message().await?;
            if reply.request_id != GREETING_ID {
                return Some(reply);
            }
        }
    }

    /// The next message, read by tarpc's own types; `None` at the end.
    pub async fn message(&mut self) -> Option<Response<ProbeResponse>> {
        let frame = soon(self.0.next()).await?.ok()?;
        Some(rmp_serde::from_slice(&frame).unwrap())
    }
}

/// A context with this much time.
pub fn within(time: Duration) -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + time;
    context
}

/// Ten seconds: what is waited for comes at once, or the test has failed.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it did not happen")
}

/// The whole chain of an error, in one line.
pub fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", told(source)),
    }
}

/// What the server answered instead of a result.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, RpcError>) -> tarpc::ServerError {
    match result {
        Err(RpcError::Server(error)) => error,
        other => panic!("not an error of the server: {other:?}"),
    }
}

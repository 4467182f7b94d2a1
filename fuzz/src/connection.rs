//! One connection to the real service, over a real socket, from a client that says all it has to say and then listens.

use std::cell::LazyCell;
use std::io::Write;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tarpc::server::Serve;
use task_proto::limits::Limits;
use task_proto::stats::{Stats, StatsRequest, StatsResponse};
use task_proto::wire::{Calls, Dialect, FdStream, Server};
use task_worker::Connection;
use task_worker::engine::{Budget, Engine, Simd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::service::Service;

/// In which way a connection is used: the first byte of an input.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) limits: Limits,
    /// The first [`SLOWLY`] bytes are sent so many at a time; all at once where that is 0.
    piece: usize,
    /// Whether the service is told to stop as soon as all has been sent.
    drained: bool,
}

const SLOWLY: usize = 64;

impl Shape {
    pub(crate) fn of(byte: u8) -> Self {
        let choose = |choices: [usize; 4], shift: u8| choices[usize::from(byte >> shift & 3)];
        let mut limits = Limits { in_flight: choose([128, 1, 2, 3], 0), ..Limits::default() };
        if byte & 4 != 0 {
            limits.frame = 512;
            limits.held = 1024;
        }
        Shape { limits, piece: choose([0, 1, 3, 64], 3), drained: byte & 32 != 0 }
    }
}

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        LazyCell::new(|| Builder::new_current_thread().enable_all().build().unwrap());
    static ENGINE: LazyCell<Engine> = LazyCell::new(|| Engine::new(Simd::best(), Budget::new(Some(1 << 20))));
}

/// Sends these bytes, and then the end of file; returns all that is heard, to its end.
pub(crate) fn exchange<D>(
    shape: &Shape,
    sent: &[u8],
    dialect: impl AsyncFnOnce(FdStream, &Limits) -> Server<D>,
) -> Vec<u8>
where
    D: Dialect<Req = StatsRequest, Resp = StatsResponse>,
{
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (mut client, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            // The socket has room for all of it, so what is said at once is there before the service looks.
            let at_once = if shape.drained || shape.piece == 0 { sent.len() } else { 0 };
            client.write_all(&sent[..at_once]).unwrap();
            let [client, theirs] = [client, theirs].map(|end| {
                end.set_nonblocking(true).unwrap();
                UnixStream::from_std(end).unwrap()
            });
            let stream = FdStream::new(theirs, shape.limits.attachments).unwrap();
            let connection = Connection {
                attachments: stream.attachments().clone(),
                limits: Arc::new(shape.limits.clone()),
                generation: 0,
                process: 0,
            };
            let service = ENGINE.with(|engine| Service::new(&connection, engine)).serve();
            let served = async {
                let transport = dialect(stream, &shape.limits).await;
                if shape.drained {
                    transport.drain();
                }
                converse(transport, service).await;
            };
            let ((), heard) = tokio::join!(served, speak(client, shape, &sent[at_once..]));
            heard
        })
    })
}

/// Says the rest, if any; an end of file; and listens.
async fn speak(mut client: UnixStream, shape: &Shape, mut rest: &[u8]) -> Vec<u8> {
    let most = rest.len().saturating_sub(SLOWLY);
    while rest.len() > most.max(shape.piece) {
        let (piece, more) = rest.split_at(shape.piece);
        tokio::task::yield_now().await;
        // A service that has heard enough reads no more.
        if client.write_all(piece).await.is_err() {
            break;
        }
        rest = more;
    }
    let _ = client.write_all(rest).await;
    let _ = client.shutdown().await;
    let mut heard = Vec::new();
    // One that closes on unread bytes resets the connection, after all that it had to say.
    let _ = client.read_to_end(&mut heard).await;
    heard
}

/// As a worker does.
async fn converse<D, S>(transport: Server<D>, service: S)
where
    D: Dialect<Req = S::Req, Resp = S::Resp>,
    S: Serve + Clone,
{
    let mut calls = Calls::new(transport);
    let mut handlers = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(answered) = handlers.next() => calls.answer(answered),
            call = calls.next() => match call {
                Some(call) => handlers.extend(calls.start(call.unwrap(), service.clone()).await),
                None => break,
            },
        }
    }
    while let Some(left) = handlers.next().await {
        assert!(left.is_err(), "requests are left when there are no more");
    }
    // Why, is for the client to hear.
    let _ = calls.transport().farewell();
}

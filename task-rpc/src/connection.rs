//! One connection: what it speaks, its calls, its end.

use std::future::{pending, poll_fn};
use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use futures::future::FusedFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::server::Serve;
use task_proto::limits::Limits;
use task_proto::scoreboard::Scores;
use task_proto::wire::json::Methods;
use task_proto::wire::{self, Attachments, Calls, Dialect, FdStream, Greeting, Hangup, Refused, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::blamed::Blamed;
use crate::call::{Names, Observed};
use crate::log::CallLevel;
use crate::seats::{Seat, Standing};
use crate::told::{Told, Warnings};

/// What a service may know of the connection whose calls it answers.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The descriptors that came with it.
    pub attachments: Attachments,
    /// The limits that the host set.
    pub limits: Arc<Limits>,
    /// Which worker of its host this is, from 1; 0 when it is alone.
    pub generation: u64,
    /// The process that made it, by its pid; 0 for all that are outside of this one's namespace.
    pub process: i32,
}

/// What all connections of a worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Arc<Limits>,
    /// Who serves: what each connection hears first, with its own number.
    pub(crate) greeting: Greeting,
    pub(crate) scores: Scores,
    pub(crate) calls: CallLevel,
    pub(crate) names: Names,
    pub(crate) blamed: Blamed,
    pub(crate) told: Told,
}

impl Shared {
    /// Counts requests that came to no call, and calls whose replies were withheld.
    fn refused(&self, unheard: u64, withheld: u64) {
        if unheard + withheld > 0 {
            self.scores.refuse(unheard, withheld);
            self.told.refused.update(|all| all + unheard + withheld);
        }
    }
}

/// What a connection hears that speaks no protocol of this socket.
const TARPC_SPOKEN: &[u8] = b"task-rpc: this socket speaks tarpc in length-delimited frames\n";
/// The same where JSON is spoken, too.
const BOTH_SPOKEN: &[u8] =
    b"task-rpc: this socket speaks tarpc in length-delimited frames, and JSON-RPC 2.0, one message a line\n";

/// Serves a connection to its end: EOF and all answers given, the client gone, or told to leave and all answers given.
pub(crate) async fn serve<S>(
    stream: UnixStream,
    shared: Rc<Shared>,
    make: Rc<impl Fn(&Connection) -> S>,
    json: Option<Methods<S::Req, S::Resp>>,
    seat: Rc<Seat>,
) where
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone,
{
    if let Err(error) = begin(stream, &shared, &*make, json, &seat).await {
        if is_of_a_client_that_left(&error) {
            tracing::debug!(log.target = "worker", %error, "closed a connection");
        } else if let Some(more) = shared.told.closed.one() {
            tracing::warn!(log.target = "worker", %error, more, "closed a connection");
        }
    }
}

/// A client may leave whenever it likes: that is nothing to be warned of.
fn is_of_a_client_that_left(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Hears from the first byte what the client speaks.
async fn begin<S>(
    stream: UnixStream,
    shared: &Rc<Shared>,
    make: &impl Fn(&Connection) -> S,
    json: Option<Methods<S::Req, S::Resp>>,
    seat: &Seat,
) -> io::Result<()>
where
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone,
{
    let open = Rc::new(shared.scores.connect());
    let mut stream = FdStream::new(stream, shared.limits.attachments)?;
    // One for all the connection: a new one in each turn costs as much as all else that the seat needs.
    let mut leave = pin!(seat.told_to_leave().fuse());
    let first = tokio::select! {
        first = stream.first_byte() => first?,
        () = &mut leave => {
            stream.stop_reading();
            stream.first_byte().await?
        }
    };
    let connection = Connection {
        attachments: stream.attachments().clone(),
        limits: Arc::clone(&shared.limits),
        generation: shared.greeting.generation,
        process: seat.process(),
    };
    let observed =
        || Observed { service: make(&connection), shared: Rc::clone(shared), connection: Rc::clone(&open) };
    match (first, json) {
        (None, _) => Ok(()),
        // The length of a frame below 16 MiB.
        (Some(0), _) => {
            let mut transport = wire::server(stream, &shared.limits, seat.decoder());
            // Before a request is read: a client that loses its connection without it knows that nothing was
            // executed. It fits any socket, so nobody is waited for.
            transport.greet(&Greeting { connection: open.number(), ..shared.greeting.clone() }).await?;
            converse(transport, observed(), shared, seat, leave).await
        }
        (Some(b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n'), Some(methods)) => {
            let transport = wire::json_server(stream, &shared.limits, methods, seat.decoder());
            converse(transport, observed(), shared, seat, leave).await
        }
        (Some(byte), json) => turn_away(stream, byte, json.is_some(), &shared.told.strangers).await,
    }
}

/// Serves whoever speaks this dialect.
async fn converse<D, S>(
    transport: Server<D>,
    service: Observed<S>,
    shared: &Shared,
    seat: &Seat,
    mut leave: Pin<&mut impl FusedFuture<Output = ()>>,
) -> io::Result<()>
where
    D: Dialect<Req = S::Req, Resp = S::Resp>,
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone,
{
    let mut hangup = pin!(Hangup::new(&transport)?);
    let mut calls = Calls::new(transport);
    let mut handlers = FuturesUnordered::new();
    // Where a handler begins. Most end there, too, and leave their place to the next.
    let mut place = None;
    let mut left = false;
    let mut refused = Refused::default();
    // Whether any request has come whole.
    let mut any = false;
    loop {
        // Once it is read no more and every answer is there, what remains is the client's part.
        let is_over = left && handlers.is_empty();
        let answered = is_over && !calls.transport().is_decoding();
        let patience = async { if answered { sleep(shared.limits.drain).await } else { pending().await } };
        tokio::select! {
            biased;
            // The client is gone: dropping its calls cancels them.
            () = &mut hangup => return Ok(()),
            () = &mut leave => {
                calls.transport().drain();
                left = true;
            }
            () = patience => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its replies"));
            }
            // Before the calls, so that replies which are ready together leave in one write.
            Some(answered) = handlers.next() => calls.answer(answered),
            // What is answered at once is done with here: to look at all of the above again takes as long as such a call.
            begun = poll_fn(|cx| loop {
                let next = calls.poll_next_unpin(cx);
                let transport = calls.transport();
                let before = std::mem::replace(&mut refused, transport.refused());
                any |= next.is_ready() || refused.unheard > 0;
                seat.note(match next.is_pending() && calls.is_idle() {
                    true if transport.is_quiet() => Standing::Idle,
                    true if transport.owes_nothing() && !any => Standing::Begun,
                    _ => Standing::Busy,
                });
                shared.refused(refused.unheard - before.unheard, refused.withheld - before.withheld);
                // What was being decoded is answered: from here on it is the client that is waited for.
                if next.is_pending() && is_over && !answered && !transport.is_decoding() {
                    return Poll::Ready(Ok(Continue(None)));
                }
                let Some(call) = ready!(next).transpose()? else { return Poll::Ready(Ok(Break(()))) };
                if let Err(error) = call.message.message() {
                    shared.refused(1, 0);
                    tracing::debug!(log.target = "worker", reason = error.detail, "refused a request");
                }
                let (id, deadline) = (call.id, call.context.deadline);
                let handler = match place.take() {
                    None => Box::pin(wire::execute(call, service.clone())),
                    Some(mut place) => {
                        Pin::set(&mut place, wire::execute(call, service.clone()));
                        place
                    }
                };
                match calls.begin(cx, id, deadline, handler) {
                    Ok(free) => place = Some(free),
                    Err(waits) => return Poll::Ready(Ok::<_, io::Error>(Continue(Some(waits)))),
                }
            }) => match begun? {
                Continue(handler) => handlers.extend(handler),
                Break(()) => return calls.transport().farewell(),
            },
        }
    }
}

/// Says what is spoken here to a client that speaks something else.
async fn turn_away(mut stream: FdStream, byte: u8, json: bool, told: &Warnings) -> io::Result<()> {
    let (spoken, said) = if json {
        (BOTH_SPOKEN, "closed a connection that does not speak tarpc or JSON-RPC")
    } else {
        (TARPC_SPOKEN, "closed a connection that does not speak tarpc")
    };
    if let Some(more) = told.one() {
        tracing::warn!(log.target = "worker", byte, more, "{said}");
    }
    stream.write_all(spoken).await?;
    // A socket closed on unread bytes gives its peer ECONNRESET after the line, and not an end of file.
    let mut unread = [0; 4096];
    while stream.read(&mut unread).now_or_never().transpose()?.is_some_and(|count| count > 0) {}
    Ok(())
}

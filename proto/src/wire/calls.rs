//! The calls of one connection, on the server's side.
//!
//! tarpc's own channel has a timer, an entry in a map, a span and two queues between tasks for each call; most of ours are
//! answered at once, in the task of their connection, and need none of them. With it 64 calls in flight take a quarter longer.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::{AbortHandle, Abortable};
use futures::{FutureExt, Sink, Stream};
use tarpc::server::Serve;
use tarpc::{ClientMessage, Request, Response, ServerError};
use tokio_util::time::{DelayQueue, delay_queue};

use super::gate::{Gated, Permit};
use super::server::{Dialect, Server};

/// What comes of a call, with its permit: until it is in the transport, so that a client which does not read its replies
/// runs out of permits instead of filling memory.
pub struct Answer<Resp> {
    reply: Response<Resp>,
    permit: Permit,
}

/// What is left of a handler that waits: over, without an answer, when its call is cancelled or past its deadline.
pub type Handler<F> = Abortable<Pin<Box<F>>>;

/// The calls of a connection: `Stream` of those to [`start`](Calls::start), and the way of their answers back. It must be
/// polled however many are in flight: deadlines, cancels and the sending of answers hang on it.
///
/// It ends when the client has ended its side and all that it asked is answered, expired or cancelled.
pub struct Calls<D: Dialect> {
    transport: Server<D>,
    ended: bool,
    /// Those that wait for something, by number.
    waiting: HashMap<u64, Waiting>,
    deadlines: DelayQueue<u64>,
    answers: VecDeque<Answer<D::Resp>>,
}

struct Waiting {
    handler: AbortHandle,
    deadline: delay_queue::Key,
}

/// What waits here is moved, and never pinned.
impl<D: Dialect> Unpin for Calls<D> {}

impl<D: Dialect> Calls<D> {
    /// Of a connection that may have been greeted.
    pub fn new(transport: Server<D>) -> Self {
        let (waiting, deadlines, answers) = (HashMap::new(), DelayQueue::new(), VecDeque::new());
        Calls { transport, ended: false, waiting, deadlines, answers }
    }

    /// Its transport.
    pub fn transport(&self) -> &Server<D> {
        &self.transport
    }

    /// Whether none waits, and no answer.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.answers.is_empty()
    }

    /// Executes a call as far as it goes at once; what is left of it is returned, and gives its [`answer`](Calls::answer)
    /// later.
    pub async fn start<S>(
        &mut self,
        call: Request<Gated<D::Req>>,
        serve: S,
    ) -> Option<Handler<impl Future<Output = Answer<D::Resp>> + use<D, S>>>
    where
        S: Serve<Req = D::Req, Resp = D::Resp>,
    {
        let (id, deadline) = (call.id, call.context.deadline);
        let mut handler = Some(Box::pin(execute(call, serve)));
        poll_fn(|cx| {
            let begun = handler.take().map(|handler| self.begin(cx, id, deadline, handler));
            Poll::Ready(begun.and_then(Result::err))
        })
        .await
    }

    /// The same of what [`execute`] made of that call, in a place that is free again if it was answered.
    ///
    /// # Errors
    /// It waits.
    pub fn begin<F: Future<Output = Answer<D::Resp>>>(
        &mut self,
        cx: &mut Context<'_>,
        id: u64,
        deadline: Instant,
        mut handler: Pin<Box<F>>,
    ) -> Result<Pin<Box<F>>, Handler<F>> {
        if let Poll::Ready(answer) = handler.as_mut().poll(cx) {
            self.answers.push_back(answer);
            return Ok(handler);
        }
        let (abort, registration) = AbortHandle::new_pair();
        let deadline = self.deadlines.insert_at(id, deadline.into());
        self.waiting.insert(id, Waiting { handler: abort, deadline });
        Err(Abortable::new(handler, registration))
    }

    /// Has answers sent of handlers that had to wait.
    pub fn answer(&mut self, answers: impl IntoIterator<Item = Answer<D::Resp>>) {
        self.answers.extend(answers);
    }

    /// Hands answers to the transport while it has room.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut transport = Pin::new(&mut self.transport);
        while !self.answers.is_empty() {
            if transport.as_mut().poll_ready(cx)?.is_pending() {
                if transport.as_mut().poll_flush(cx)?.is_pending() {
                    break;
                }
            } else if let Some(Answer { reply, permit }) = self.answers.pop_front() {
                if let Some(Waiting { deadline, .. }) = self.waiting.remove(&reply.request_id) {
                    self.deadlines.remove(&deadline);
                }
                transport.as_mut().start_send(reply)?;
                drop(permit);
            }
        }
        Ok(())
    }

    /// Nobody waits for that one any more.
    fn end(&mut self, id: u64) {
        if let Some(Waiting { handler, deadline }) = self.waiting.remove(&id) {
            // One that has expired has left already.
            self.deadlines.try_remove(&deadline);
            handler.abort();
        }
        self.answers.retain(|answer| answer.reply.request_id != id);
    }

    /// Whether that one is not answered, expired or cancelled.
    fn is_in_flight(&self, id: u64) -> bool {
        self.waiting.contains_key(&id) || self.answers.iter().any(|answer| answer.reply.request_id == id)
    }
}

impl<D: Dialect> Stream for Calls<D> {
    type Item = io::Result<Request<Gated<D::Req>>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // An empty one need not say that it is empty (a known fault of tokio's).
            while !this.deadlines.is_empty()
                && let Poll::Ready(Some(expired)) = this.deadlines.poll_expired(cx)
            {
                this.end(expired.into_inner());
            }
            // Before the next is read: what is answered makes room for it.
            this.send(cx)?;
            let message =
                if this.ended { Poll::Ready(None) } else { Pin::new(&mut this.transport).poll_next(cx)? };
            match message {
                // One more of the same number is none.
                Poll::Ready(Some(ClientMessage::Request(call))) if !this.is_in_flight(call.id) => {
                    return Poll::Ready(Some(Ok(call)));
                }
                Poll::Ready(Some(ClientMessage::Cancel { request_id, .. })) => this.end(request_id),
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => {
                    this.ended = true;
                    ready!(Pin::new(&mut this.transport).poll_flush(cx)?);
                    return if this.is_idle() { Poll::Ready(None) } else { Poll::Pending };
                }
                Poll::Pending => {
                    ready!(Pin::new(&mut this.transport).poll_flush(cx)?);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Executes a call under its permit: one that cannot be decoded is answered with the reason, and a panic of its handler is
/// an error reply (a caller of stock tarpc waits out its deadline).
pub async fn execute<S: Serve>(call: Request<Gated<S::Req>>, serve: S) -> Answer<S::Resp> {
    let Request { context, id, message: Gated { message, permit } } = call;
    let message = match message {
        // The handler is dropped with its panic, so nobody sees what it left half done of its own.
        Ok(request) => {
            AssertUnwindSafe(serve.serve(context, request)).catch_unwind().await.unwrap_or_else(|panic| {
                Err(ServerError::new(ErrorKind::Other, format!("the handler panicked: {}", text(&*panic))))
            })
        }
        Err(error) => Err(error),
    };
    Answer { reply: Response { request_id: id, message }, permit }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

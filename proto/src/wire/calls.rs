//! The calls of one connection, on the server's side.
//!
//! tarpc's own channel has a timer, an entry in a map, a span and two queues between tasks for each call; most of ours are
//! answered at once, in the task of their connection, and need none of them. With it 64 calls in flight take a fifth longer.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::{AbortHandle, Abortable};
use futures::{Sink, Stream};
use tarpc::server::Serve;
use tarpc::{ClientMessage, Request, Response};
use tokio_util::time::{DelayQueue, delay_queue};

use super::gate::{Gated, Permit, serve_gated};
use super::server::{Dialect, Server};

/// What comes of a call, with its permit: until it is in the transport, so that a client which does not read its replies
/// runs out of permits instead of filling memory.
pub struct Answer<Resp> {
    reply: Response<Resp>,
    permit: Option<Permit>,
}

/// The calls of a connection: `Stream` of those to [`execute`], and the way of their answers back. It must be polled
/// however many are in flight: deadlines, cancels and the sending of answers hang on it.
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

    /// For a call that is not answered at once, by its number: it is over, without an answer, when it is cancelled or past
    /// its deadline.
    pub fn track<F>(&mut self, id: u64, deadline: Instant, handler: F) -> Abortable<F> {
        let (abort, registration) = AbortHandle::new_pair();
        let deadline = self.deadlines.insert_at(id, deadline.into());
        self.waiting.insert(id, Waiting { handler: abort, deadline });
        Abortable::new(handler, registration)
    }

    /// Has answers sent; none comes of a call that was over before.
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
        if let Some(Waiting { handler, .. }) = self.waiting.remove(&id) {
            handler.abort();
            self.answers.retain(|answer| answer.reply.request_id != id);
        }
    }
}

impl<D: Dialect> Stream for Calls<D> {
    type Item = io::Result<Request<Gated<D::Req>>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // An empty one need not say that it is empty (tokio's issue 4161).
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
                Poll::Ready(Some(ClientMessage::Request(call))) if !this.waiting.contains_key(&call.id) => {
                    return Poll::Ready(Some(Ok(call)));
                }
                Poll::Ready(Some(ClientMessage::Cancel { request_id, .. })) => {
                    if let Some(Waiting { deadline, .. }) = this.waiting.get(&request_id) {
                        this.deadlines.remove(deadline);
                        this.end(request_id);
                    }
                }
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

/// Executes a call under its permit.
pub async fn execute<S: Serve>(call: Request<Gated<S::Req>>, serve: S) -> Answer<S::Resp> {
    let Request { context, id, message } = call;
    let permit = message.take_permit();
    let message = serve_gated(serve).serve(context, message).await;
    Answer { reply: Response { request_id: id, message }, permit }
}

//! The server's end of a connection, as a tarpc transport, whichever dialect the client speaks.
//!
//! It holds the gate for calls in flight. That sits in `poll_next` because tarpc's own limit rejects instead of
//! queueing, and a server that stops polling sees no deadline, cancel or end of stream either: here a full gate goes
//! on reading, passes cancels on, and keeps requests back until there is a permit.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{Sink, Stream};
use rustix::net::{SendFlags, send};
use tarpc::{ClientMessage, Response, trace};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

use super::attachments::Attachments;
use super::clocks::{Begun, Unread};
use super::gate::{Gated, Permit};
use super::stream::FdStream;
use super::turns::Turns;
use super::{frames, json};
use crate::limits::{Limits, STRETCH, STRETCH_TIME};

/// What a client speaks: how bytes become requests, and replies bytes. The two are [`Frames`](super::Frames) and
/// [`Lines`](super::Lines).
pub trait Dialect: Unpin {
    /// The service's requests.
    type Req;
    /// The service's replies.
    type Resp;
    /// A request that waits.
    type Body: Unpin;

    /// The socket.
    fn stream(&self) -> &FdStream;

    /// Bytes of a message whose end has not come.
    fn begun(&self) -> u64;

    /// Whether nothing is owed to the client, and nothing is half written.
    fn is_quiet(&self) -> bool;

    /// Whether a message is being decoded elsewhere.
    fn is_decoding(&self) -> bool;

    /// Whether replies are outstanding that only [`poll_expired`](Dialect::poll_expired) might give.
    fn owes(&self) -> bool;

    /// Those so far.
    fn refused(&self) -> Refused;

    /// Ready when more may be said in reply to what is read. An error of the socket is found by whoever writes next.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The next request whose deadline has passed, and which has been answered with that: it is to be cancelled.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<u64>;

    /// What comes next; `None` at the end of the stream. `now`, if the clock has just been looked at.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
        now: Option<Instant>,
    ) -> Poll<Option<io::Result<Incoming<Self>>>>;

    /// Decodes a request that was held, now that there is a permit for it; `None`: it has been answered.
    fn admit(&mut self, held: Held<Self::Body>, permit: Permit) -> io::Result<Option<Admitted<Self>>>;

    /// What tells a client why its connection is about to be closed; nothing where it could be taken for a reply.
    fn notice(&self, reason: &io::Error) -> Vec<u8>;

    /// As [`Sink::poll_ready`].
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// As [`Sink::start_send`].
    fn start_send(&mut self, reply: Response<Self::Resp>) -> io::Result<()>;

    /// As [`Sink::poll_flush`].
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Requests whose answers are none of the service's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// The service has heard nothing of them.
    pub unheard: u64,
    /// Their replies were too large.
    pub withheld: u64,
}

/// A request with its permit.
pub(super) type Admitted<D> = tarpc::Request<Gated<<D as Dialect>::Req>>;

/// What came from a client.
pub enum Incoming<D: Dialect + ?Sized> {
    /// A request that has a permit.
    Request(Admitted<D>),
    /// A request that waits for one.
    Held(Held<D::Body>),
    /// The client no longer wants this one.
    Cancel {
        /// Of the message itself.
        trace_context: trace::Context,
        /// Of the request.
        request_id: u64,
    },
}

/// A request that waits for a permit; not decoded unless it is long, because numbers take more room than their encoding.
pub struct Held<B> {
    /// Its number on this connection.
    pub(super) id: u64,
    /// When the client gives up on it.
    pub(super) deadline: Instant,
    /// What it takes of the limit besides its place in the queue, in bytes.
    pub(super) bytes: usize,
    pub(super) body: B,
}

/// See [`server`](super::server()) and [`json_server`](super::json_server): `Stream` of
/// [`ClientMessage<Gated<Req>>`](Gated) and `Sink` of [`Response<Resp>`](Response).
///
/// Its end is never closed for writing: whoever is done drops it.
pub struct Server<D: Dialect> {
    pub(super) dialect: D,
    permits: PollSemaphore,
    held: Queue<D::Body>,
    held_limit: usize,
    state: State,
    begun: Begun,
    unread: Unread,
    /// Of messages, and looks for one.
    turns: Turns,
}

enum State {
    Reading,
    /// Nothing more is read; what is held is still to be given out. The reason, if it is not the client's wish.
    Ended(Option<io::Error>),
}

impl<D: Dialect> Server<D> {
    pub(super) fn new(dialect: D, permits: Arc<Semaphore>, limits: &Limits) -> Self {
        Server {
            dialect,
            permits: PollSemaphore::new(permits),
            held: Queue::default(),
            held_limit: limits.held,
            state: State::Reading,
            begun: Begun::new(limits.frame_time),
            unread: Unread::new(limits.unread),
            turns: Turns::new(STRETCH).lasting(STRETCH_TIME),
        }
    }

    /// The descriptors received on this connection.
    pub fn attachments(&self) -> &Attachments {
        self.dialect.stream().attachments()
    }

    /// Whether nothing of it is half read, half written or held back.
    pub fn is_quiet(&self) -> bool {
        self.owes_nothing() && !self.has_read_more()
    }

    /// Whether nothing of it is half written or held back: if it is not quiet, its client has begun a message and not
    /// ended it.
    pub fn owes_nothing(&self) -> bool {
        matches!(self.state, State::Reading)
            && self.held.is_empty()
            && self.dialect.is_quiet()
            && !self.is_decoding()
    }

    /// Whether a message that has come whole is being decoded.
    pub fn is_decoding(&self) -> bool {
        self.dialect.is_decoding()
    }

    /// Those so far.
    pub fn refused(&self) -> Refused {
        self.dialect.refused()
    }

    /// Reads no more than what was sent before: the client's next write fails, so it knows that it was never executed.
    pub fn drain(&self) {
        self.dialect.stream().stop_reading();
    }

    /// To be called when there are no more requests and all are answered. If that is not the client's own wish, tells
    /// it the reason, as far as its socket has room for it.
    ///
    /// # Errors
    /// That reason.
    pub fn farewell(&self) -> io::Result<()> {
        let State::Ended(Some(reason)) = &self.state else { return Ok(()) };
        let notice = self.dialect.notice(reason);
        // All before it has been flushed, and a client that does not read is not waited for.
        let _ = send(self.as_fd(), &notice, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        Err(io::Error::new(reason.kind(), reason.to_string()))
    }
}

/// What tells a client whose connection is closed at once why, if it can be told what it speaks by the first bytes that it
/// sent. Where JSON is not spoken, or it might be of version 1 (it would take this for a reply), it is told nothing.
pub fn refusal(sent: &[u8], reason: &io::Error, limits: &Limits, json: bool) -> Vec<u8> {
    match sent.first() {
        Some(0) => frames::notice(reason, limits.frame),
        Some(b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n') if json && is_of_version_two(sent) => {
            json::notice(reason)
        }
        _ => Vec::new(),
    }
}

fn is_of_version_two(sent: &[u8]) -> bool {
    let member = b"\"jsonrpc\"";
    sent.windows(member.len()).any(|part| part == member)
}

impl<D: Dialect> AsFd for Server<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dialect.stream().as_fd()
    }
}

type Message<D> = ClientMessage<Gated<<D as Dialect>::Req>>;

impl<D: Dialect> Stream for Server<D> {
    type Item = io::Result<Message<D>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let known = this.has_read_more() || !this.held.is_empty();
            // Three looks at it are 0.5 µs of a call that comes alone.
            let now = known.then(Instant::now);
            ready!(this.turns.poll(cx, now));
            if let Poll::Ready(request_id) = this.dialect.poll_expired(cx) {
                this.turns.found();
                if let Some(cancel) = this.cancel(trace::Context::default(), request_id) {
                    return Poll::Ready(Some(Ok(cancel)));
                }
                continue;
            }
            match this.poll_held(cx) {
                Poll::Ready(Ok(Some(request))) => {
                    this.turns.found();
                    return Poll::Ready(Some(Ok(ClientMessage::Request(request))));
                }
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Err(error)) => {
                    this.end(error);
                    continue;
                }
                Poll::Pending => {}
            }
            match this.state {
                // One message may be more than all others may be, and cancels come behind it.
                State::Reading if this.held.bytes < this.held_limit || this.held.order.len() == 1 => {}
                State::Ended(_) if this.held.is_empty() && !this.dialect.owes() => return Poll::Ready(None),
                // No clock runs: more is held only when a message has come whole.
                _ => return Poll::Pending,
            }
            let incoming = ready!(this.poll_incoming(cx, now));
            this.turns.found();
            match incoming {
                Some(Ok(Incoming::Request(request))) => {
                    return Poll::Ready(Some(Ok(ClientMessage::Request(request))));
                }
                Some(Ok(Incoming::Held(held))) => this.held.push(held),
                Some(Ok(Incoming::Cancel { trace_context, request_id })) => {
                    if let Some(cancel) = this.cancel(trace_context, request_id) {
                        return Poll::Ready(Some(Ok(cancel)));
                    }
                }
                None => this.state = State::Ended(None),
                // A frame cut off by the end of the stream (a drain can do that) was never a request; those
                // before it are to be answered.
                Some(Err(_)) if this.dialect.stream().ended() => this.state = State::Ended(None),
                Some(Err(error)) => this.end(error),
            }
        }
    }
}

impl<D: Dialect> Server<D> {
    /// Whether there are bytes of a message that is not decoded.
    fn has_read_more(&self) -> bool {
        self.dialect.begun() > 0 || !self.dialect.stream().is_read()
    }

    /// What comes next, within the time that a message may take from its first byte to its last.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
        now: Option<Instant>,
    ) -> Poll<Option<io::Result<Incoming<D>>>> {
        self.begun.pause();
        let incoming = self.dialect.poll_incoming(cx, now);
        if incoming.is_ready() {
            self.begun.reset();
            return incoming;
        }
        self.turns.reset();
        // What stands behind a long message is not waited for.
        let begun = if self.dialect.is_decoding() { 0 } else { self.dialect.begun() };
        self.begun.poll(cx, begun).map(|error| Some(Err(error)))
    }

    /// What whoever executes the requests is to know of a cancel: nothing, if it was held.
    fn cancel(&mut self, trace_context: trace::Context, request_id: u64) -> Option<Message<D>> {
        let known = !self.held.remove(request_id);
        known.then_some(ClientMessage::Cancel { trace_context, request_id })
    }

    /// No more can be read. What came whole before is still answered, and what the client has yet to write fails, so
    /// that it knows that it was never executed.
    fn end(&mut self, reason: io::Error) {
        self.drain();
        self.state = State::Ended(Some(reason));
    }

    /// The next held request that has a permit and time left, `None` in its place if it has been answered; pending if
    /// nothing is held.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Admitted<D>>>> {
        while !self.held.is_empty() {
            ready!(self.dialect.poll_room(cx));
            let Some(permit) = ready!(self.permits.poll_acquire(cx)) else { break };
            // The client has stopped waiting for one that is past its deadline.
            if let Some(held) = self.held.pop()
                && held.deadline > Instant::now()
            {
                return Poll::Ready(self.dialect.admit(held, Permit::new(permit)));
            }
        }
        Poll::Pending
    }
}

impl<D: Dialect> Sink<Response<D::Resp>> for Server<D> {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.dialect.poll_ready(cx) {
            // Room for one more reply is not yet a client that has taken any.
            Poll::Ready(ready) => Poll::Ready(ready),
            Poll::Pending => this.unread.poll(cx, this.dialect.stream().written()).map(Err),
        }
    }

    fn start_send(self: Pin<&mut Self>, reply: Response<D::Resp>) -> io::Result<()> {
        self.get_mut().dialect.start_send(reply)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // More is to be answered after the others' turn, and replies leave together: each write may wake the client, at the
        // price of two calls. Those that fill a buffer do not wait.
        if this.has_read_more() && this.turns.are_others(cx) {
            return Poll::Pending;
        }
        match this.dialect.poll_flush(cx) {
            Poll::Ready(flushed) => {
                this.unread.reset();
                Poll::Ready(flushed)
            }
            Poll::Pending => this.unread.poll(cx, this.dialect.stream().written()).map(Err),
        }
    }

    /// A sandboxed server has no right to close its end for writing alone, and no need: it is dropped next.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// Requests held back, in order of arrival.
struct Queue<B> {
    next: u64,
    bytes: usize,
    order: BTreeMap<u64, Held<B>>,
    place: HashMap<u64, u64>,
}

impl<B> Default for Queue<B> {
    fn default() -> Self {
        Queue { next: 0, bytes: 0, order: BTreeMap::new(), place: HashMap::new() }
    }
}

impl<B> Held<B> {
    fn size(&self) -> usize {
        self.bytes + size_of::<Self>()
    }
}

impl<B> Queue<B> {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A second request of the same id is dropped, as one is whose id is in flight.
    fn push(&mut self, held: Held<B>) {
        if !self.place.contains_key(&held.id) {
            self.bytes += held.size();
            self.place.insert(held.id, self.next);
            self.order.insert(self.next, held);
            self.next += 1;
        }
    }

    fn pop(&mut self) -> Option<Held<B>> {
        let (_, held) = self.order.pop_first()?;
        self.place.remove(&held.id);
        self.bytes -= held.size();
        Some(held)
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(held) = self.place.remove(&id).and_then(|place| self.order.remove(&place)) else {
            return false;
        };
        self.bytes -= held.size();
        true
    }
}

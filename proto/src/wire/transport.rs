//! The two ends of a connection, as tarpc transports.
//!
//! The server's end holds the gate for calls in flight. It sits in `poll_next` because tarpc's own limit rejects
//! instead of queueing, and a server that stops polling sees no deadline, cancel or end of stream either: here a
//! full gate goes on reading, passes cancels on, and keeps requests back until there is a permit.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{Sink, SinkExt, Stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{ClientMessage, Response, ServerError};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_util::codec::{Framed, LengthDelimitedCodec, LengthDelimitedCodecError};
use tokio_util::sync::PollSemaphore;

use super::codec::{ClientCodec, Held, Incoming, ServerCodec};
use super::gate::{Gated, Permit};
use super::message::{GREETING_ID, Greeting, NOTICE_ID};
use super::stream::{Attachments, FdStream, Outgoing};
use crate::limits::{Limits, NOTICE};

type Frames = Framed<FdStream, LengthDelimitedCodec>;

fn frames(stream: FdStream, limits: &Limits) -> Frames {
    LengthDelimitedCodec::builder().max_frame_length(limits.frame).new_framed(stream)
}

/// The server's end of a connection. Made within a tokio runtime.
pub fn server<Req, Resp>(stream: FdStream, limits: &Limits) -> ServerTransport<Req, Resp> {
    let permits = Arc::new(Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)));
    let codec = ServerCodec::new(limits.frame, Arc::clone(&permits));
    ServerTransport {
        inner: tokio_serde::Framed::new(frames(stream, limits), codec.clone()),
        codec,
        permits: PollSemaphore::new(permits),
        held: Queue::default(),
        held_limit: limits.held,
        state: State::Reading,
    }
}

/// See [`server`]: `Stream` of [`ClientMessage<Gated<Req>>`](Gated) and `Sink` of [`Response<Resp>`](Response).
pub struct ServerTransport<Req, Resp> {
    inner: tokio_serde::Framed<Frames, Incoming<Req>, Response<Resp>, ServerCodec>,
    codec: ServerCodec,
    permits: PollSemaphore,
    held: Queue,
    held_limit: usize,
    state: State,
}

enum State {
    Reading,
    /// The client sends no more; what is held is still to be given out.
    Ended,
    /// The client is being told why its connection ends.
    Failing {
        error: Option<io::Error>,
        told: bool,
        limit: Pin<Box<Sleep>>,
    },
}

impl<Req, Resp> ServerTransport<Req, Resp> {
    /// The descriptors received on this connection.
    pub fn attachments(&self) -> &Attachments {
        self.inner.get_ref().get_ref().attachments()
    }

    /// Whether nothing of it is half read, half written or held back.
    pub fn is_quiet(&self) -> bool {
        let frames = self.inner.get_ref();
        matches!(self.state, State::Reading)
            && self.held.is_empty()
            && frames.read_buffer().is_empty()
            && frames.write_buffer().is_empty()
            && frames.get_ref().is_read()
    }
}

impl<Req, Resp: Serialize> ServerTransport<Req, Resp> {
    /// Says who serves, before any request is read.
    pub async fn greet(&mut self, greeting: &Greeting) -> io::Result<()> {
        let detail = serde_json::to_string(greeting)?;
        let message = Err(ServerError::new(ErrorKind::Other, detail));
        self.inner.send(Response { request_id: GREETING_ID, message }).await
    }
}

impl<Req, Resp> AsFd for ServerTransport<Req, Resp> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().get_ref().as_fd()
    }
}

type Message<Req> = ClientMessage<Gated<Req>>;

impl<Req: DeserializeOwned, Resp: Serialize> Stream for ServerTransport<Req, Resp> {
    type Item = io::Result<Message<Req>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let this = &mut *self;
            let incoming = match &this.state {
                State::Failing { .. } => return self.poll_fail(cx),
                _ => match this.poll_held(cx) {
                    Poll::Ready(admitted) => Some(admitted),
                    Poll::Pending if matches!(this.state, State::Ended) && this.held.is_empty() => {
                        return Poll::Ready(None);
                    }
                    Poll::Pending
                        if matches!(this.state, State::Ended) || this.held.bytes >= this.held_limit =>
                    {
                        return Poll::Pending;
                    }
                    Poll::Pending => ready!(Pin::new(&mut this.inner).poll_next(cx)),
                },
            };
            match incoming {
                Some(Ok(Incoming::Request(request))) => {
                    return Poll::Ready(Some(Ok(ClientMessage::Request(request))));
                }
                Some(Ok(Incoming::Held(held))) => this.held.push(held),
                Some(Ok(Incoming::Cancel { trace_context, request_id })) => {
                    if !this.held.remove(request_id) {
                        return Poll::Ready(Some(Ok(ClientMessage::Cancel { trace_context, request_id })));
                    }
                }
                None => this.state = State::Ended,
                // A frame cut off by the end of the stream (a drain can do that) was never a request; those
                // before it are to be answered.
                Some(Err(_)) if this.inner.get_ref().get_ref().ended() => this.state = State::Ended,
                Some(Err(mut error)) => {
                    if error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<LengthDelimitedCodecError>)
                    {
                        let limit = this.inner.get_ref().codec().max_frame_length();
                        let reason = format!("a frame is over the limit of {limit} bytes");
                        error = io::Error::new(ErrorKind::InvalidData, reason);
                    }
                    let limit = Box::pin(tokio::time::sleep(NOTICE));
                    this.state = State::Failing { error: Some(error), told: false, limit };
                }
            }
        }
    }
}

impl<Req: DeserializeOwned, Resp: Serialize> ServerTransport<Req, Resp> {
    /// The next held request that has a permit and time left; pending if nothing is held.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming<Req>>> {
        while !self.held.is_empty() {
            let Some(permit) = ready!(self.permits.poll_acquire(cx)) else { break };
            // The client has stopped waiting for one that is past its deadline; tarpc answers none of these.
            if let Some(held) = self.held.pop()
                && held.deadline > Instant::now()
            {
                return Poll::Ready(self.codec.admit(&held, Permit::new(permit)));
            }
        }
        Poll::Pending
    }

    /// Tells the client the reason, then ends with it; a client that does not read is not waited for long.
    fn poll_fail(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Message<Req>>>> {
        let this = self.get_mut();
        let State::Failing { error, told, limit } = &mut this.state else { return Poll::Ready(None) };
        let Some(reason) = error else { return Poll::Ready(None) };
        let mut inner = Pin::new(&mut this.inner);
        let mut tell = || -> Poll<io::Result<()>> {
            if !*told {
                ready!(inner.as_mut().poll_ready(cx))?;
                let message = Err(ServerError::new(reason.kind(), reason.to_string()));
                inner.as_mut().start_send(Response { request_id: NOTICE_ID, message })?;
                *told = true;
            }
            inner.as_mut().poll_flush(cx)
        };
        // Whether it could be told or not makes no difference to how this ends.
        if tell().is_pending() {
            ready!(limit.as_mut().poll(cx));
        }
        Poll::Ready(error.take().map(Err))
    }
}

impl<Req, Resp: Serialize> Sink<Response<Resp>> for ServerTransport<Req, Resp> {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_ready(cx)
    }

    fn start_send(self: Pin<&mut Self>, reply: Response<Resp>) -> io::Result<()> {
        Pin::new(&mut self.get_mut().inner).start_send(reply)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

/// Requests held back, in order of arrival.
#[derive(Default)]
struct Queue {
    next: u64,
    bytes: usize,
    order: BTreeMap<u64, Held>,
    place: HashMap<u64, u64>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A second request of the same id is dropped, as tarpc does with one in flight.
    fn push(&mut self, held: Held) {
        if !self.place.contains_key(&held.id) {
            self.bytes += held.size();
            self.place.insert(held.id, self.next);
            self.order.insert(self.next, held);
            self.next += 1;
        }
    }

    fn pop(&mut self) -> Option<Held> {
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

/// The client's end of a connection.
pub fn client<Req, Resp>(stream: FdStream, limits: &Limits) -> ClientTransport<Req, Resp> {
    ClientTransport {
        inner: tokio_serde::Framed::new(frames(stream, limits), ClientCodec { limit: limits.frame }),
        buffered: VecDeque::new(),
        unsent: VecDeque::new(),
        refused: false,
        ended: false,
        error: None,
        greeting: Arc::default(),
    }
}

/// See [`client`]: `Sink` of [`ClientMessage<Req>`](ClientMessage) and `Stream` of [`Response<Resp>`](Response).
///
/// A server that drains stops reading, so a write fails (`EPIPE`) while the replies to earlier requests still
/// come: reading goes on to the end of the stream. A request that did not go out whole, or is submitted after
/// that, was never executed, and fails at once with [`ErrorKind::BrokenPipe`].
pub struct ClientTransport<Req, Resp> {
    inner: tokio_serde::Framed<Frames, Response<Resp>, ClientMessage<Req>, ClientCodec>,
    /// Requests that may not be written yet, each with the place of its end in the stream.
    buffered: VecDeque<(u64, u64)>,
    /// Requests that never will be.
    unsent: VecDeque<u64>,
    /// The server takes no more.
    refused: bool,
    /// It says no more either.
    ended: bool,
    /// The error that it ended with, until that is handed out.
    error: Option<io::Error>,
    greeting: Arc<OnceLock<Greeting>>,
}

/// What the error says of a request that did not go out whole.
pub const NEVER_SENT: &str = "never sent: the server takes no more requests on this connection";

impl<Req, Resp> ClientTransport<Req, Resp> {
    /// The queue of descriptors to send: they go with or before the request submitted next.
    pub fn outgoing(&self) -> &Outgoing {
        self.inner.get_ref().get_ref().outgoing()
    }

    /// Who serves this connection, once it has said so: until then nothing of it was executed. Empty is whoever does
    /// not say it so that it is understood.
    pub fn greeting(&self) -> Arc<OnceLock<Greeting>> {
        Arc::clone(&self.greeting)
    }

    /// Nothing more can be written: what has not been, never was sent.
    fn refuse(&mut self) {
        self.refused = true;
        let written = self.inner.get_ref().get_ref().written();
        self.unsent.extend(self.buffered.drain(..).filter(|(_, end)| *end > written).map(|(id, _)| id));
    }

    /// Takes a failed write as the end of writing only.
    fn end_writing(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        match result {
            Poll::Ready(Err(error))
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                self.refuse();
                // The reading side hands them out.
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<Req, Resp> AsFd for ClientTransport<Req, Resp> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().get_ref().as_fd()
    }
}

impl<Req, Resp: DeserializeOwned> Stream for ClientTransport<Req, Resp> {
    type Item = io::Result<Response<Resp>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(request_id) = this.unsent.pop_front() {
                let error = ServerError::new(ErrorKind::BrokenPipe, NEVER_SENT.to_owned());
                return Poll::Ready(Some(Ok(Response { request_id, message: Err(error) })));
            }
            if this.ended {
                return Poll::Ready(this.error.take().map(Err));
            }
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(Response { request_id: GREETING_ID, message })) => {
                    // One that is not understood is of a later version: somebody serves, nobody knows who.
                    let said = message.err().and_then(|said| serde_json::from_str(&said.detail).ok());
                    let _ = this.greeting.set(said.unwrap_or_default());
                }
                Some(Ok(reply)) => {
                    // A server that answers without a greeting is a stranger: its requests are executed all the same.
                    this.greeting.get_or_init(Greeting::default);
                    return Poll::Ready(Some(Ok(reply)));
                }
                // tarpc reads between submitting a request and flushing it.
                end => {
                    this.refuse();
                    this.ended = true;
                    this.error = end.and_then(Result::err);
                }
            }
        }
    }
}

impl<Req: Serialize, Resp> Sink<ClientMessage<Req>> for ClientTransport<Req, Resp> {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused {
            return Poll::Ready(Ok(()));
        }
        let ready = Pin::new(&mut this.inner).poll_ready(cx);
        this.end_writing(cx, ready)
    }

    fn start_send(self: Pin<&mut Self>, message: ClientMessage<Req>) -> io::Result<()> {
        let this = self.get_mut();
        let id = match &message {
            ClientMessage::Request(request) => Some(request.id),
            _ => None,
        };
        match id {
            Some(_) if this.refused => return Err(io::Error::new(ErrorKind::BrokenPipe, NEVER_SENT)),
            None if this.refused => return Ok(()),
            _ => Pin::new(&mut this.inner).start_send(message)?,
        }
        let frames = this.inner.get_ref();
        let written = frames.get_ref().written();
        while this.buffered.front().is_some_and(|(_, end)| *end <= written) {
            this.buffered.pop_front();
        }
        let end = written + frames.write_buffer().len() as u64;
        this.buffered.extend(id.map(|id| (id, end)));
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.end_writing(cx, flushed)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused {
            return Poll::Ready(Ok(()));
        }
        let closed = Pin::new(&mut this.inner).poll_close(cx);
        this.end_writing(cx, closed)
    }
}

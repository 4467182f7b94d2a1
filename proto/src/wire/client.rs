//! The client's end of a connection, as a tarpc transport.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{ClientMessage, Response, ServerError};

use super::codec::ClientCodec;
use super::frames::{Framed, framed};
use super::message::{GREETING_ID, Greeting};
use super::stream::{FdStream, Outgoing};
use crate::limits::Limits;

/// The client's end of a connection.
pub fn client<Req, Resp>(stream: FdStream, limits: &Limits) -> ClientTransport<Req, Resp> {
    let greeting = Arc::default();
    let codec = ClientCodec::new(limits.frame, Arc::clone(&greeting));
    ClientTransport {
        inner: tokio_serde::Framed::new(framed(stream.plain(), limits), codec),
        buffered: VecDeque::new(),
        unsent: VecDeque::new(),
        refused: false,
        ended: false,
        error: None,
        greeting,
    }
}

/// See [`client`]: `Sink` of [`ClientMessage<Req>`](ClientMessage) and `Stream` of [`Response<Resp>`](Response).
///
/// A server that drains stops reading, so a write fails (`EPIPE`) while the replies to earlier requests still
/// come: reading goes on to the end of the stream. A request that did not go out whole, or is submitted after
/// that, was never executed, and fails at once with [`ErrorKind::BrokenPipe`].
pub struct ClientTransport<Req, Resp> {
    inner: tokio_serde::Framed<Framed, Response<Resp>, ClientMessage<Req>, ClientCodec>,
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

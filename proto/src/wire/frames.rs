//! tarpc's dialect: `MessagePack` in length-delimited frames.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{Sink, SinkExt, Stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{Response, ServerError};
use tokio::sync::Semaphore;
use tokio_util::codec::{LengthDelimitedCodec, LengthDelimitedCodecError};

use super::codec::{Arrival, Body, Encoder, Long, ServerCodec};
use super::decoder::{Decoder, Decoding};
use super::gate::Permit;
use super::message::{self, GREETING_ID, Greeting, NOTICE_ID, WireError};
use super::server::{Admitted, Dialect, Held, Incoming, Refused, Server};
use super::stream::FdStream;
use crate::limits::Limits;

pub(super) type Framed = tokio_util::codec::Framed<FdStream, LengthDelimitedCodec>;

pub(super) fn framed(stream: FdStream, limits: &Limits) -> Framed {
    LengthDelimitedCodec::builder().max_frame_length(limits.frame).new_framed(stream)
}

/// The server's end of a connection whose client speaks tarpc. Made within a tokio runtime.
pub fn server<Req: DeserializeOwned + Send + 'static, Resp: Serialize>(
    stream: FdStream,
    limits: &Limits,
    decoder: &Decoder,
) -> ServerTransport<Req, Resp> {
    let permits = Arc::new(Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)));
    let codec = ServerCodec::new(limits.frame, Arc::clone(&permits));
    let inner = tokio_serde::Framed::new(framed(stream, limits), codec.clone());
    let (decoder, decoding) = (decoder.clone(), Decoding::default());
    Server::new(Frames { inner, codec, limit: limits.frame, whole: 0, decoder, decoding }, permits, limits)
}

/// See [`server`].
pub type ServerTransport<Req, Resp> = Server<Frames<Req, Resp>>;

/// See [`server`].
pub struct Frames<Req: DeserializeOwned + Send + 'static, Resp: Serialize> {
    inner: tokio_serde::Framed<Framed, Arrival<Req, Resp>, Response<Resp>, ServerCodec>,
    codec: ServerCodec,
    limit: usize,
    /// The place in the stream where the last whole frame ends.
    whole: u64,
    decoder: Decoder,
    /// A long frame, and when it came.
    decoding: Decoding<(Long<Req>, Instant)>,
}

impl<Req: DeserializeOwned + Send + 'static, Resp: Serialize> Frames<Req, Resp> {
    /// A message with its deadline, now that it is known when it came.
    fn came(&self, mut incoming: Incoming<Self>, at: Instant) -> Incoming<Self> {
        let since = at - self.codec.epoch();
        match &mut incoming {
            Incoming::Request(request) => request.context.deadline += since,
            Incoming::Held(held) => held.deadline += since,
            Incoming::Cancel { .. } => {}
        }
        incoming
    }

    /// An error of reading, in our words where they are better.
    fn explained(&self, error: io::Error) -> io::Error {
        if error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<LengthDelimitedCodecError>) {
            let reason = format!("a frame is over the limit of {} bytes", self.limit);
            return io::Error::new(ErrorKind::InvalidData, reason);
        }
        error
    }
}

/// The frame that says why a connection is closed.
pub(super) fn notice(reason: &io::Error, limit: usize) -> Vec<u8> {
    let error = ServerError::new(reason.kind(), reason.to_string());
    let message = Err(WireError::from(&error));
    let notice = Encoder::new(limit).encode(&message::Response::<()> { request_id: NOTICE_ID, message });
    // One over the limit would not be read.
    notice.map_or_else(|_| Vec::new(), |notice| [&(notice.len() as u32).to_be_bytes(), &notice[..]].concat())
}

impl<Req: DeserializeOwned + Send + 'static, Resp: Serialize> Server<Frames<Req, Resp>> {
    /// Says who serves, before any request is read.
    pub async fn greet(&mut self, greeting: &Greeting) -> io::Result<()> {
        let detail = serde_json::to_string(greeting)?;
        let message = Err(ServerError::new(ErrorKind::Other, detail));
        self.dialect.inner.send(Response { request_id: GREETING_ID, message }).await
    }
}

impl<Req: DeserializeOwned + Send + 'static, Resp: Serialize> Dialect for Frames<Req, Resp> {
    type Req = Req;
    type Resp = Resp;
    type Body = Body<Req>;

    fn stream(&self) -> &FdStream {
        self.inner.get_ref().get_ref()
    }

    fn begun(&self) -> u64 {
        self.stream().delivered() - self.whole
    }

    fn is_quiet(&self) -> bool {
        self.inner.get_ref().write_buffer().is_empty()
    }

    fn is_decoding(&self) -> bool {
        self.decoding.is_under_way()
    }

    /// tarpc's clients keep their own deadlines, and expect no word of them.
    fn owes(&self) -> bool {
        false
    }

    /// It has errors of its own only where a request cannot be decoded, which [`Gated`](super::Gated) tells.
    fn refused(&self) -> Refused {
        Refused::default()
    }

    fn poll_expired(&mut self, _: &mut Context<'_>) -> Poll<u64> {
        Poll::Pending
    }

    /// It says nothing by itself.
    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
        now: Option<Instant>,
    ) -> Poll<Option<io::Result<Incoming<Self>>>> {
        loop {
            if let Some(long) = ready!(self.decoding.poll(cx)) {
                let taken = long.and_then(|(long, came)| Ok(self.came(self.codec.take(long)?, came)));
                return Poll::Ready(Some(taken));
            }
            let arrival = ready!(Pin::new(&mut self.inner).poll_next(cx));
            self.whole = self.stream().delivered() - self.inner.get_ref().read_buffer().len() as u64;
            match arrival {
                None => return Poll::Ready(None),
                Some(Ok(Arrival::Message(incoming))) => {
                    return Poll::Ready(Some(Ok(self.came(incoming, now.unwrap_or_else(Instant::now)))));
                }
                Some(Ok(Arrival::Long(frame))) => {
                    let came = now.unwrap_or_else(Instant::now);
                    self.decoding = self.decoder.begin(move || (Long::decode(&frame), came));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.explained(error)))),
            }
        }
    }

    fn admit(&mut self, held: Held<Body<Req>>, permit: Permit) -> io::Result<Option<Admitted<Self>>> {
        self.codec.admit(held, permit)
    }

    fn notice(&self, reason: &io::Error) -> Vec<u8> {
        notice(reason, self.limit)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_ready(cx)
    }

    fn start_send(&mut self, reply: Response<Resp>) -> io::Result<()> {
        Pin::new(&mut self.inner).start_send(reply)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

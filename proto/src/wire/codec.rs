//! Frames into tarpc's messages and back, in `MessagePack`.
//!
//! Structs are written as maps, which any program can read and later versions can extend; maps and arrays (the
//! form of stock tarpc's `MessagePack` transport) are both read. One bad message never costs a connection: what
//! can be answered is answered.

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tarpc::{ServerError, context};
use tokio::sync::Semaphore;
use tokio_serde::{Deserializer, Serializer};

use super::frames::Frames;
use super::gate::{Gated, Permit};
use super::message::{ClientMessage, Context, Greeting, NOTICE_ID, Request, Response, WireError};
use super::pack::{Failure, pack};
use super::server::{Held, Incoming};
use super::unpack::{Unread, unpack};
use crate::limits::{FAILURE_SHOWN, LONG_MESSAGE};
use crate::number::Number;

/// A request that is held back: as it came, or decoded if that had to be done elsewhere.
pub struct Body<Req>(State<Req>);

enum State<Req> {
    Arrived(Bytes),
    Decoded(Box<Request<Result<Req, ServerError>>>),
}

/// What a frame is to the server.
pub(super) enum Arrival<Req: DeserializeOwned + Send + 'static, Resp: Serialize> {
    /// A message, as if it had come at the codec's [`epoch`](ServerCodec::epoch).
    Message(Incoming<Frames<Req, Resp>>),
    /// One to be decoded elsewhere.
    Long(Bytes),
}

/// The server's half: requests in, replies out.
#[derive(Debug, Clone)]
pub(super) struct ServerCodec {
    encoder: Encoder,
    permits: Arc<Semaphore>,
    template: context::Context,
    epoch: Instant,
}

impl ServerCodec {
    pub(super) fn new(limit: usize, permits: Arc<Semaphore>) -> Self {
        let (template, epoch) = (context::current(), Instant::now());
        ServerCodec { encoder: Encoder::new(limit), permits, template, epoch }
    }

    /// Deadlines count from here until it is known when their message came: to look at the clock for each is a hundredth
    /// of a call.
    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Decodes a request that was held, now that there is a permit for it.
    pub(super) fn admit<Req: DeserializeOwned + Send + 'static>(
        &self,
        Held { deadline, body, .. }: Held<Body<Req>>,
        permit: Permit,
    ) -> io::Result<Option<tarpc::Request<Gated<Req>>>> {
        let request = match body.0 {
            State::Decoded(request) => *request,
            State::Arrived(frame) => match decode(&frame)? {
                ClientMessage::Request(request) => request,
                ClientMessage::Cancel { .. } => return Ok(None),
            },
        };
        let mut request = self.gated(request, permit);
        request.context.deadline = deadline;
        Ok(Some(request))
    }

    /// What a long frame is, now that it is decoded; as if it had come at the epoch.
    pub(super) fn take<Req: DeserializeOwned + Send + 'static, Resp: Serialize>(
        &self,
        Long { bytes, message }: Long<Req>,
    ) -> io::Result<Incoming<Frames<Req, Resp>>> {
        Ok(match message? {
            ClientMessage::Cancel { trace_context, request_id } => {
                Incoming::Cancel { trace_context, request_id }
            }
            ClientMessage::Request(request) => {
                if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                    return Ok(Incoming::Request(self.gated(request, Permit::new(permit))));
                }
                let Request { ref context, id, .. } = request;
                let deadline = context.deadline(self.epoch);
                // A byte of a frame may be a number.
                let bytes = bytes * size_of::<Number>();
                let body = Body(State::Decoded(Box::new(request)));
                Incoming::Held(Held { id, deadline, bytes, body })
            }
        })
    }

    fn gated<Req>(
        &self,
        Request { context, id, message }: Request<Result<Req, ServerError>>,
        permit: Permit,
    ) -> tarpc::Request<Gated<Req>> {
        let context = context.into_tarpc(self.epoch, self.template);
        tarpc::Request { context, id, message: Gated { message, permit } }
    }
}

/// A long frame, decoded.
pub(super) struct Long<Req> {
    /// Of the frame.
    bytes: usize,
    message: io::Result<Decoded<Req>>,
}

impl<Req: DeserializeOwned + Send + 'static> Long<Req> {
    pub(super) fn decode(frame: &[u8]) -> Self {
        Long { bytes: frame.len(), message: decode(frame) }
    }
}

/// A message, where a request whose payload is no `Req` has the reason in its place.
type Decoded<Req> = ClientMessage<Result<Req, ServerError>>;

fn decode<Req: DeserializeOwned + Send + 'static>(frame: &[u8]) -> io::Result<Decoded<Req>> {
    let reason = match read(frame) {
        Ok(ClientMessage::Request(Request { context, id, message })) => {
            return Ok(ClientMessage::Request(Request { context, id, message: Ok(message) }));
        }
        Ok(ClientMessage::Cancel { trace_context, request_id }) => {
            return Ok(ClientMessage::Cancel { trace_context, request_id });
        }
        Err(reason) => reason,
    };
    // It repeats a name that it does not know, however long that is.
    let mut reason = reason.to_string();
    reason.truncate(reason.floor_char_boundary(FAILURE_SHOWN));
    match read(frame) {
        Ok(ClientMessage::Request(Request { context, id, message: IgnoredAny })) => {
            let error =
                ServerError::new(ErrorKind::InvalidData, format!("the request cannot be decoded: {reason}"));
            Ok(ClientMessage::Request(Request { context, id, message: Err(error) }))
        }
        _ => Err(invalid(format!("a frame is no message of this protocol: {reason}"))),
    }
}

impl<Req: DeserializeOwned + Send + 'static, Resp: Serialize> Deserializer<Arrival<Req, Resp>>
    for ServerCodec
{
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<Arrival<Req, Resp>> {
        if frame.len() > LONG_MESSAGE {
            return Ok(Arrival::Long(Bytes::copy_from_slice(frame)));
        }
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(Arrival::Message(match decode(frame)? {
                ClientMessage::Request(request) => {
                    Incoming::Request(self.gated(request, Permit::new(permit)))
                }
                ClientMessage::Cancel { trace_context, request_id } => {
                    Incoming::Cancel { trace_context, request_id }
                }
            }));
        }
        Ok(Arrival::Message(match decode::<IgnoredAny>(frame)? {
            ClientMessage::Request(Request { context, id, .. }) => {
                let deadline = context.deadline(self.epoch);
                let body = Body(State::Arrived(Bytes::copy_from_slice(frame)));
                Incoming::Held(Held { id, deadline, bytes: frame.len(), body })
            }
            ClientMessage::Cancel { trace_context, request_id } => {
                Incoming::Cancel { trace_context, request_id }
            }
        }))
    }
}

impl<Resp: Serialize> Serializer<tarpc::Response<Resp>> for ServerCodec {
    type Error = io::Error;

    /// A reply that cannot be sent becomes the error that says so: its caller waits for one.
    fn serialize(self: Pin<&mut Self>, reply: &tarpc::Response<Resp>) -> io::Result<Bytes> {
        let tarpc::Response { request_id, ref message } = *reply;
        let message = message.as_ref().map_err(WireError::from);
        let encoder = &mut self.get_mut().encoder;
        encoder
            .encode(&Response { request_id, message })
            .or_else(|reason| {
                let error = ServerError::new(ErrorKind::InvalidData, format!("the reply {reason}"));
                encoder.encode(&Response::<()> { request_id, message: Err(WireError::from(&error)) })
            })
            .map_err(|reason| invalid(format!("the reply {reason}")))
    }
}

/// The client's half: requests out, replies in.
#[derive(Debug, Clone)]
pub(super) struct ClientCodec {
    encoder: Encoder,
    /// Who serves, once that is known.
    greeting: Arc<OnceLock<Greeting>>,
}

impl ClientCodec {
    pub(super) fn new(limit: usize, greeting: Arc<OnceLock<Greeting>>) -> Self {
        ClientCodec { encoder: Encoder::new(limit), greeting }
    }

    fn context(&self, context: &context::Context) -> Context {
        let context = Context::of(context, Instant::now());
        let is_ours = self.greeting.get().is_some_and(|greeting| greeting.connection > 0);
        if is_ours { context.shortened() } else { context }
    }
}

impl<Req: Serialize> Serializer<tarpc::ClientMessage<Req>> for ClientCodec {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, message: &tarpc::ClientMessage<Req>) -> io::Result<Bytes> {
        let message = match message {
            tarpc::ClientMessage::Request(tarpc::Request { context, id, message }) => {
                ClientMessage::Request(Request { context: self.context(context), id: *id, message })
            }
            tarpc::ClientMessage::Cancel { trace_context, request_id } => {
                ClientMessage::Cancel { trace_context: *trace_context, request_id: *request_id }
            }
            _ => return Err(ErrorKind::Unsupported.into()),
        };
        self.get_mut().encoder.encode(&message).map_err(|reason| {
            io::Error::new(ErrorKind::InvalidInput, format!("never sent: the request {reason}"))
        })
    }
}

impl<Resp: DeserializeOwned> Deserializer<tarpc::Response<Resp>> for ClientCodec {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, frame: &BytesMut) -> io::Result<tarpc::Response<Resp>> {
        let (request_id, message) = match read::<Response<Resp>>(frame) {
            Ok(Response { request_id, message }) => (request_id, message.map_err(ServerError::from)),
            Err(reason) => {
                let detail = format!("the reply cannot be decoded: {reason}");
                let Ok(Response::<IgnoredAny> { request_id, .. }) = read(frame) else {
                    return Err(invalid(detail));
                };
                (request_id, Err(ServerError::new(ErrorKind::InvalidData, detail)))
            }
        };
        match message {
            Err(error) if request_id == NOTICE_ID => Err(io::Error::new(
                ErrorKind::ConnectionAborted,
                format!("the server closed the connection: {}", error.detail),
            )),
            message => Ok(tarpc::Response { request_id, message }),
        }
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// A frame that is wrong is read twice, which the limit of a frame and the turns of its connection bound.
fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    unpack(frame).or_else(|Unread| rmp_serde::from_slice(frame))
}

/// Writes messages of at most `limit` bytes in `MessagePack`.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    limit: usize,
    /// Room for those of the usual size: a message is copied out of it, and has no byte too many.
    room: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(limit: usize) -> Self {
        Encoder { limit, room: Vec::new() }
    }

    /// The encoding of a message, or why there is none.
    pub(super) fn encode(&mut self, message: &impl Serialize) -> Result<Bytes, String> {
        let packed = pack(message, self.limit, &mut self.room);
        let large = self.room.capacity() > LONG_MESSAGE;
        match packed {
            Ok(()) if large => return Ok(mem::take(&mut self.room).into()),
            Ok(()) => return Ok(Bytes::copy_from_slice(&self.room)),
            Err(failure) => {
                self.room = Vec::new();
                if failure == Failure::Over {
                    return Err(over(self.limit));
                }
            }
        }
        let mut frame = Capped { bytes: Vec::new(), limit: self.limit, over: false };
        let mut serializer = rmp_serde::Serializer::new(&mut frame).with_struct_map();
        match message.serialize(&mut serializer) {
            Ok(()) => Ok(frame.bytes.into()),
            Err(_) if frame.over => Err(over(self.limit)),
            Err(error) => Err(format!("cannot be encoded: {error}")),
        }
    }
}

fn over(limit: usize) -> String {
    format!("is over the limit of a frame, {limit} bytes")
}

/// Stops an encoding as soon as it is over the limit.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
    over: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.over = true;
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

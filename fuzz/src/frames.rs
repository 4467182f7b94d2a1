//! tarpc, as the service hears it.
//!
//! An input is a [`Shape`] and frames between bytes of `c1`, which `MessagePack` never uses. The length of each is
//! written for it, as hardly a mutation would keep one right; what follows a `c0` is sent as it stands, without one.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tarpc::trace;
use task_proto::number::Number;
use task_proto::stats::{StatsRequest, StatsResponse};
use task_proto::wire::{self, Decoder, Greeting};

use crate::connection::{Shape, exchange};
use crate::{MOST, plausible};

const END: u8 = 0xc1;
const AS_IT_STANDS: u8 = 0xc0;
const GREETING_ID: u64 = u64::MAX - 1;
const NOTICE_ID: u64 = u64::MAX;
/// The id of the request that ends each input.
const LAST_ID: u64 = 0x6c61_7374;
/// Time enough for an answer to have to come.
const AMPLE: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
enum Message<T> {
    Request(Request<T>),
    Cancel {
        #[serde(default, rename = "trace_context")]
        _trace_context: trace::Context,
        request_id: u64,
    },
}

#[derive(Deserialize)]
struct Request<T> {
    context: Context,
    id: u64,
    message: T,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default = "ample")]
    deadline: Duration,
    #[serde(default, rename = "trace_context")]
    _trace_context: Option<trace::Context>,
}

fn ample() -> Duration {
    AMPLE
}

#[derive(Debug, Deserialize)]
struct Reply {
    request_id: u64,
    message: Result<StatsResponse, ServerError>,
}

#[derive(Debug, Deserialize)]
struct ServerError {
    kind: u32,
    detail: String,
}

/// tarpc's number of what could not be decoded.
const INVALID_DATA: u32 = 12;

/// What was sent with an id.
#[derive(Default)]
struct Sent {
    requests: usize,
    cancels: usize,
    hurried: bool,
    /// Of the last; `None` if it is none of this service.
    request: Option<StatsRequest>,
}

/// Frames of a client; see the module.
pub fn frames(data: &[u8]) -> u64 {
    let data = &data[..data.len().min(MOST)];
    let Some((&shape, data)) = data.split_first() else { return 0 };
    let shape = Shape::of(shape);
    let mut bytes = Vec::with_capacity(2 * data.len());
    for part in data.split(|byte| *byte == END) {
        match part {
            [AS_IT_STANDS, raw @ ..] => bytes.extend_from_slice(raw),
            [] => {}
            frame => frame_into(&mut bytes, frame),
        }
    }
    frame_into(&mut bytes, &last());
    // Its first byte is what tells the dialect.
    if bytes[0] != 0 {
        return 0;
    }

    let heard = exchange(&shape, &bytes, async |stream, limits| {
        let mut transport = wire::server(stream, limits, &Decoder::default());
        transport.greet(&Greeting::default()).await.unwrap();
        transport
    });

    let (sent, closes, seen) = understood(&bytes, shape.limits.frame);
    let mut replies = Vec::new();
    let whole = split(&heard, usize::MAX, |frame| {
        replies.push(
            rmp_serde::from_slice::<Reply>(frame).unwrap_or_else(|error| panic!("{error}: {frame:x?}")),
        );
        true
    });
    assert!(whole, "a reply is cut off: {heard:x?}");
    check(&sent, closes, &replies);
    seen
}

/// What a service is to make of these bytes: the messages by id, whether they end in a breach of the protocol, how many.
fn understood(bytes: &[u8], limit: usize) -> (HashMap<u64, Sent>, bool, u64) {
    let mut sent: HashMap<u64, Sent> = HashMap::new();
    let mut seen = 0;
    let whole = split(bytes, limit, |frame| {
        seen += 1;
        let (request, id, context) = if let Some(message) = decode::<StatsRequest>(frame) {
            match message {
                Message::Request(Request { context, id, message }) => (Some(message), id, context),
                Message::Cancel { request_id, .. } => {
                    sent.entry(request_id).or_default().cancels += 1;
                    return true;
                }
            }
        } else if let Some(Message::Request(Request { context, id, .. })) = decode::<IgnoredAny>(frame) {
            (None, id, context)
        } else {
            return false;
        };
        let sent = sent.entry(id).or_default();
        sent.requests += 1;
        sent.hurried |= context.deadline < AMPLE;
        sent.request = request;
        true
    });
    (sent, !whole, seen)
}

fn check(sent: &HashMap<u64, Sent>, closes: bool, replies: &[Reply]) {
    let Some((greeting, replies)) = replies.split_first() else { panic!("there is no greeting") };
    assert_eq!(greeting.request_id, GREETING_ID);
    let mut answers: HashMap<u64, usize> = HashMap::new();
    for Reply { request_id, message } in replies {
        *answers.entry(*request_id).or_default() += 1;
        let Some(sent) = sent.get(request_id).filter(|sent| sent.requests > 0) else {
            assert!(closes && *request_id == NOTICE_ID, "nobody asked for {request_id}: {message:?}");
            continue;
        };
        match (&sent.request, message) {
            // Which of them is answered, only the service knows.
            _ if sent.requests > 1 || *request_id == NOTICE_ID => {}
            (Some(request), Ok(answer)) => plausible::check(request, answer),
            // Answers may be larger than a frame.
            (_, Err(ServerError { kind: INVALID_DATA, detail })) => {
                assert!(
                    sent.request.is_none() || detail.contains("over the limit"),
                    "{request_id} was refused: {detail}"
                );
            }
            (_, message) => panic!("{request_id} was answered with {message:?}"),
        }
    }
    for (id, Sent { requests, cancels, hurried, .. }) in sent {
        let answers = answers.get(id).copied().unwrap_or_default();
        let notices = usize::from(closes && *id == NOTICE_ID);
        assert!(answers <= requests + notices, "{id} has {answers} answers to {requests} requests");
        assert!(answers > 0 || *requests != 1 || *cancels > 0 || *hurried, "{id} has no answer");
    }
    let last = replies.iter().find(|reply| reply.request_id == LAST_ID);
    if let (Some(Sent { requests: 1, cancels: 0, .. }), Some(Reply { message, .. })) =
        (sent.get(&LAST_ID), last)
    {
        let Ok(StatsResponse::Median(Ok(median))) = message else { panic!("the last: {message:?}") };
        assert_eq!((median.value, median.count), (Number::Float(2.0), 4), "{median:?}");
    }
    assert!(closes || last.is_some(), "the last has no answer");
}

/// The frames, as long as they are wanted; whether that was to the end, and none of them is over the limit.
fn split(mut bytes: &[u8], limit: usize, mut wanted: impl FnMut(&[u8]) -> bool) -> bool {
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        if length > limit {
            return false;
        }
        let Some((frame, rest)) = rest.split_at_checked(length) else { break };
        if !wanted(frame) {
            return false;
        }
        bytes = rest;
    }
    bytes.is_empty()
}

fn decode<T: DeserializeOwned>(frame: &[u8]) -> Option<Message<T>> {
    rmp_serde::from_slice(frame).ok()
}

fn frame_into(bytes: &mut Vec<u8>, frame: &[u8]) {
    bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    bytes.extend_from_slice(frame);
}

/// `Median` of 1, 3, 2 and 2, as stock tarpc writes it.
fn last() -> Vec<u8> {
    let context = ((AMPLE.as_secs(), 0), ([0_u8; 16], 0, "Unsampled"));
    let query = [("numbers", [1, 3, 2, 2])];
    let query: HashMap<_, _> = query.into_iter().collect();
    let message = HashMap::from([("Median", (query,))]);
    rmp_serde::to_vec(&HashMap::from([("Request", (context, LAST_ID, message))])).unwrap()
}

//! What a line holds, read without a connection: in its turn, or elsewhere because it is long.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::Duration;

use serde_json::value::RawValue;

use super::envelope::{self, Caller, Envelope, Unfit};
use super::methods::{Methods, Params};
use super::reply::JsonError;
use crate::number::Number;

/// What a request asks for.
pub(super) enum Content<Req> {
    Written(Written),
    /// Found out elsewhere, because it is long.
    Decoded(Box<Decoded<Req>>),
}

/// The parts of a request that are the service's affair.
pub(super) struct Written {
    text: Box<str>,
    method: Range<usize>,
    params: Option<Range<usize>>,
    positional: bool,
}

pub(super) struct Decoded<Req> {
    pub(super) message: Result<Req, JsonError>,
    pub(super) fingerprint: Fingerprint,
    /// At most, in bytes.
    pub(super) size: usize,
}

/// The same for the same request.
pub(super) struct Fingerprint {
    pub(super) halves: [u64; 2],
    /// The attachments that it names.
    pub(super) attached: BTreeSet<u32>,
}

impl Written {
    /// What the service's request is.
    pub(super) fn decode<Req, Resp>(&self, methods: &Methods<Req, Resp>) -> Result<Req, JsonError> {
        let Written { text, method, params, positional } = self;
        let method: Cow<'_, str> = serde_json::from_str(&text[method.clone()])
            .map_err(|_| JsonError::invalid_request("\"method\" must be text"))?;
        let json = params.clone().map(|place| serde_json::from_str(&text[place])).transpose();
        let json: Option<&RawValue> = json.map_err(|error| JsonError::invalid_params(error.to_string()))?;
        let message = (methods.request)(&method, Params { json, positional: *positional })?;
        // Where a method looks at none of them, too.
        if !positional && json.is_some_and(|json| !json.get().starts_with(['{', '['])) {
            return Err(JsonError::invalid_params("\"params\" must be an object, or a list of one"));
        }
        Ok(message)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let params = self.params.clone().map_or("", |place| &self.text[place]);
        let halves = [0, 1].map(|salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, &self.text[self.method.clone()], params).hash(&mut hasher);
            hasher.finish()
        });
        Fingerprint { halves, attached: attached(params).collect() }
    }
}

impl<Req> Content<Req> {
    /// At most, in bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Content::Written(written) => written.text.len(),
            Content::Decoded(decoded) => decoded.size,
        }
    }
}

/// What a line holds.
pub(super) enum Line<Req> {
    One(Result<Member<Req>, Box<Unfit>>),
    Batch(Vec<Result<Member<Req>, Box<Unfit>>>),
}

/// One request of a line.
pub(super) struct Member<Req> {
    pub(super) caller: Caller,
    pub(super) deadline: Option<Duration>,
    pub(super) trace_id: Option<u128>,
    pub(super) content: Content<Req>,
}

/// Reads a line of at most so many requests, and with methods what they ask for.
pub(super) fn read_line<Req, Resp>(
    line: &[u8],
    batch: usize,
    methods: Option<&Methods<Req, Resp>>,
) -> Result<Line<Req>, JsonError> {
    let Ok(text) = std::str::from_utf8(line.trim_ascii()) else {
        return Err(JsonError::parse("not JSON: it is not UTF-8"));
    };
    if !text.starts_with('[') {
        return Ok(Line::One(read_request(text, methods)));
    }
    let members = envelope::members(text, batch)?;
    Ok(Line::Batch(members.into_iter().map(|member| read_request(member.get(), methods)).collect()))
}

fn read_request<Req, Resp>(
    text: &str,
    methods: Option<&Methods<Req, Resp>>,
) -> Result<Member<Req>, Box<Unfit>> {
    let Envelope { caller, method, params, positional, deadline, trace_id } = envelope::read(text)?;
    let written = Written { text: text.into(), method, params, positional };
    let content = match methods {
        None => Content::Written(written),
        Some(methods) => Content::Decoded(Box::new(Decoded {
            message: written.decode(methods),
            fingerprint: written.fingerprint(),
            // Every other byte may be a number.
            size: text.len() / 2 * size_of::<Number>(),
        })),
    };
    Ok(Member { caller, deadline, trace_id, content })
}

/// The numbers of the attachments that parameters name.
fn attached(params: &str) -> impl Iterator<Item = u32> {
    params.split("\"attached\"").skip(1).filter_map(|rest| {
        let number = rest.trim_start().strip_prefix(':')?.trim_start();
        let end = number.find(|character: char| !character.is_ascii_digit()).unwrap_or(number.len());
        number[..end].parse().ok()
    })
}

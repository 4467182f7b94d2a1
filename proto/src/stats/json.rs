//! The service's methods in JSON: their names, and what their parameters and results look like.
//!
//! Numbers are read from the list as it is written, by the grammar of all numbers: a JSON decoder would make `-0` a
//! float and an integer beyond 64 bits a float without a word of it, and would take `1e400` for an error of syntax.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Format, Missing, Query, StatsRequest, StatsResponse, WireQuery, WireSource};
use crate::fault::{Fault, FaultKind};
use crate::number::{Token, TokenError, parse_token};
use crate::numbers::Numbers;
use crate::text::shown;
use crate::wire::json::{JsonError, Methods, Params};

/// The methods of [`Stats`](super::Stats): `mean`, `Stats.mean` and `Stats.Mean`, and so on.
pub const METHODS: Methods<StatsRequest, StatsResponse> = Methods { request, reply };

const NAMES: &str = "mean, median, mode, ping and release, each also as Stats.mean and Stats.Mean";

fn request(method: &str, params: Params<'_>) -> Result<StatsRequest, JsonError> {
    Ok(match method {
        "mean" | "Stats.mean" | "Stats.Mean" => StatsRequest::Mean { query: query(params)? },
        "median" | "Stats.median" | "Stats.Median" => StatsRequest::Median { query: query(params)? },
        "mode" | "Stats.mode" | "Stats.Mode" => StatsRequest::Mode { query: query(params)? },
        // Go's client cannot leave parameters out.
        "ping" | "Stats.ping" | "Stats.Ping" => StatsRequest::Ping {},
        "release" | "Stats.release" | "Stats.Release" => {
            StatsRequest::Release { attached: released(params)? }
        }
        other => return Err(JsonError::unknown_method(other, NAMES)),
    })
}

/// As in the protocol's own form; a `release` has nothing to say, which is true.
fn reply(reply: StatsResponse, out: &mut dyn Write) -> Result<(), JsonError> {
    match reply {
        StatsResponse::Mean(mean) => serde_json::to_writer(out, &mean?)?,
        StatsResponse::Median(median) => serde_json::to_writer(out, &median?)?,
        StatsResponse::Mode(mode) => serde_json::to_writer(out, &mode?)?,
        StatsResponse::Ping(pong) => serde_json::to_writer(out, &pong)?,
        StatsResponse::Release(released) => {
            released?;
            serde_json::to_writer(out, &true)?;
        }
    }
    Ok(())
}

impl From<Fault> for JsonError {
    fn from(fault: Fault) -> Self {
        JsonError::from(&fault)
    }
}

/// A [`Query`], flat, whose numbers are not read yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonQuery<'a> {
    #[serde(borrow, default)]
    numbers: Option<&'a RawValue>,
    #[serde(default)]
    attached: Option<u32>,
    #[serde(default)]
    format: Option<Format>,
    #[serde(borrow, default)]
    inputs: Option<Vec<JsonSource<'a>>>,
    #[serde(default)]
    missing: Missing,
    #[serde(default)]
    deadline_ms: Option<IgnoredAny>,
    #[serde(default)]
    trace_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSource<'a> {
    #[serde(borrow, default)]
    numbers: Option<&'a RawValue>,
    #[serde(default)]
    attached: Option<u32>,
    #[serde(default)]
    format: Option<Format>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    attached: u32,
    #[serde(default)]
    deadline_ms: Option<IgnoredAny>,
    #[serde(default)]
    trace_id: Option<IgnoredAny>,
}

fn query(params: Params<'_>) -> Result<Query, JsonError> {
    let JsonQuery { numbers, attached, format, inputs, missing, deadline_ms, trace_id } = read(params)?;
    in_its_place(params, deadline_ms.or(trace_id))?;
    let source = |(index, JsonSource { numbers, attached, format }): (u32, JsonSource<'_>)| {
        let numbers = numbers.map(|list| self::numbers(list, index)).transpose()?;
        Ok::<_, JsonError>(WireSource { numbers, attached, format })
    };
    let WireSource { numbers, attached, format } = source((0, JsonSource { numbers, attached, format }))?;
    let inputs = inputs.map(|inputs| (0..).zip(inputs).map(source).collect()).transpose()?;
    let query = WireQuery { numbers, attached, format, inputs, missing };
    query.try_into().map_err(JsonError::invalid_params)
}

fn released(params: Params<'_>) -> Result<u32, JsonError> {
    let Release { attached, deadline_ms, trace_id } = read(params)?;
    in_its_place(params, deadline_ms.or(trace_id))?;
    Ok(attached)
}

fn read<'a, T: Deserialize<'a>>(params: Params<'a>) -> Result<T, JsonError> {
    let json = params.json.ok_or_else(|| JsonError::invalid_params("\"params\" are missing"))?;
    serde_json::from_str(json.get()).map_err(|error| JsonError::invalid_params(error.to_string()))
}

/// What would be overlooked is refused.
fn in_its_place(params: Params<'_>, given: Option<IgnoredAny>) -> Result<(), JsonError> {
    match given {
        Some(IgnoredAny) if !params.positional => {
            Err(JsonError::invalid_params("\"deadline_ms\" and \"trace_id\" stand beside \"params\""))
        }
        _ => Ok(()),
    }
}

fn numbers(list: &RawValue, source: u32) -> Result<Numbers, JsonError> {
    let read = serde_json::Deserializer::from_str(list.get()).deserialize_seq(List);
    let read = read.map_err(|error| JsonError::invalid_params(format!("\"numbers\": {error}")))?;
    read.map_err(|fault| fault.in_source(source).into())
}

struct List;

impl<'de> Visitor<'de> for List {
    type Value = Result<Numbers, Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut numbers = Numbers::default();
        while let Some(written) = list.next_element::<&RawValue>()? {
            match token(written.get()) {
                Ok(token) => numbers.push(token),
                Err(fault) => {
                    // The rest is read, or the decoder would complain of it.
                    while let Some(IgnoredAny) = list.next_element()? {}
                    return Ok(Err(Fault { column: Some(numbers.len() as u64 + 1), ..fault }));
                }
            }
        }
        Ok(Ok(numbers))
    }
}

/// One element of the list: a number or null as it stands, or a string with a number's text.
fn token(written: &str) -> Result<Token, Fault> {
    let text: Cow<'_, str> = if written.starts_with('"') {
        // What is no text, as it has half a surrogate, is no number either.
        serde_json::from_str(written).unwrap_or(Cow::Borrowed(written))
    } else {
        Cow::Borrowed(written)
    };
    parse_token(text.as_bytes()).map_err(|error| {
        let kind = match error {
            TokenError::NotANumber => FaultKind::NotANumber,
            TokenError::OutOfRange => FaultKind::OutOfRange,
        };
        Fault::new(kind, format!("\"{}\" is {error}", shown(text.as_bytes())))
    })
}

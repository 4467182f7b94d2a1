//! A request as it is written, without a look at what it means to the service.
//!
//! Members are kept as they stand: a number beyond a float is no error of syntax, and an absent id is not a null one.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::object::{self, OPTIONS, Object, is_null};
use super::reply::JsonError;
use crate::limits::{JSON_ID, NO_DEADLINE};
use crate::number::{Token, TokenError, parse_token};

/// Which JSON-RPC a request is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Without `"jsonrpc"`.
    One,
    /// `"jsonrpc":"2.0"`.
    Two,
}

/// Whom to answer, and how.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// As it was written; `None`: a notification, or not known.
    pub(super) id: Option<Box<str>>,
    pub(super) version: Version,
}

/// A request, with its places in the text that it was read from.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) caller: Caller,
    pub(super) method: Range<usize>,
    /// Null are as good as none.
    pub(super) params: Option<Range<usize>>,
    /// Whether they are the only element of a list, as Go sends them.
    pub(super) positional: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) trace_id: Option<u128>,
}

/// What is no request: whom to tell, if that is known, and why.
#[derive(Debug)]
pub(super) struct Unfit {
    /// The version is `None` where the request does not tell.
    pub(super) version: Option<Version>,
    pub(super) id: Option<Box<str>>,
    /// Whether nobody waits for an answer.
    pub(super) notification: bool,
    pub(super) error: JsonError,
}

const EXAMPLE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Reads one request.
pub(super) fn read(text: &str) -> Result<Envelope, Box<Unfit>> {
    let unfit = |error| Box::new(Unfit { version: None, id: None, notification: false, error });
    if !text.starts_with('{') {
        let json = serde_json::from_str::<IgnoredAny>(text);
        let no_object = |_| JsonError::invalid_request(format!("a request must be an object, as {EXAMPLE}"));
        return Err(unfit(json.map_or_else(|error| not_json(&error), no_object)));
    }
    let names = ["jsonrpc", "id", "method", "params", "deadline_ms", "trace_id"];
    let Object { members, twice, .. } =
        object::read(text, names, &[]).map_err(|error| unfit(not_json(&error)))?;
    if let Some(name) = twice {
        return Err(unfit(JsonError::invalid_request(format!("a request has {name:?} twice"))));
    }
    let [jsonrpc, id, method, params, deadline_ms, trace_id] = members;
    let [params, deadline_ms, trace_id] =
        [params, deadline_ms, trace_id].map(|member| member.filter(|json| !is_null(json)));
    let id = id.map(self::id).transpose();
    let version = match jsonrpc.map(RawValue::get) {
        None if method.is_some() => Some(Version::One),
        Some("\"2.0\"") => Some(Version::Two),
        _ => None,
    };
    let refused = |id: &Option<Box<str>>, error| {
        Box::new(Unfit { version, id: id.clone(), notification: false, error })
    };
    let id = id.map_err(|error| refused(&None, error))?;
    let Some(version) = version else {
        let message = format!("\"jsonrpc\" must be \"2.0\" (or left out, in JSON-RPC 1.0), as in {EXAMPLE}");
        return Err(refused(&id, JsonError::invalid_request(message)));
    };
    let Some(method) = method.filter(|method| method.get().starts_with('"')) else {
        return Err(refused(
            &id,
            JsonError::invalid_request(format!("\"method\" must be a string, as in {EXAMPLE}")),
        ));
    };
    // Version 1 has notifications, too: their id is null.
    let id = id.filter(|id| version == Version::Two || &**id != "null");
    let notification = id.is_none();
    let wrong = |error| Box::new(Unfit { version: Some(version), id: id.clone(), notification, error });

    let only = params.and_then(only);
    let [inner_deadline, inner_trace] = only.map_or(Ok([None; 2]), options).map_err(wrong)?;
    let deadline =
        deadline_ms.or(inner_deadline).map(|raw| deadline(raw.get())).transpose().map_err(wrong)?;
    let trace_id = trace_id.or(inner_trace).map(|raw| trace(raw.get())).transpose().map_err(wrong)?;
    let place = |raw: &RawValue| {
        let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
        start..start + raw.get().len()
    };
    Ok(Envelope {
        method: place(method),
        positional: only.is_some(),
        params: only.or(params).map(place),
        deadline,
        trace_id,
        caller: Caller { id, version },
    })
}

/// The only element of a list.
fn only(params: &RawValue) -> Option<&RawValue> {
    let only = params.get().starts_with('[').then(|| serde_json::from_str::<[&RawValue; 1]>(params.get()));
    only?.ok().map(|[only]| only)
}

/// What stands in an object that is the only element of the parameters, and is no affair of the method.
fn options(only: &RawValue) -> Result<[Option<&RawValue>; 2], JsonError> {
    if !only.get().starts_with('{') {
        return Ok([None; 2]);
    }
    match object::read(only.get(), OPTIONS, &[]) {
        Ok(Object { twice: Some(name), .. }) => {
            Err(JsonError::invalid_params(format!("\"params\" has {name:?} twice")))
        }
        Ok(Object { members, .. }) => Ok(members.map(|member| member.filter(|json| !is_null(json)))),
        // It has been read with the request.
        Err(error) => Err(not_json(&error)),
    }
}

fn id(raw: &RawValue) -> Result<Box<str>, JsonError> {
    let raw = raw.get();
    if matches!(raw.as_bytes().first(), Some(b'{' | b'[' | b't' | b'f')) {
        return Err(JsonError::invalid_request("\"id\" must be a string, a number or null"));
    }
    if raw.len() > JSON_ID {
        return Err(JsonError::invalid_request(format!("\"id\" is over the limit of {JSON_ID} bytes")));
    }
    Ok(raw.into())
}

/// Milliseconds from now; negative ones have passed, and endless ones are as good as none.
fn deadline(raw: &str) -> Result<Duration, JsonError> {
    let milliseconds = match parse_token(raw.as_bytes()) {
        Ok(Token::Number(number)) => number.to_f64(),
        Ok(Token::HugeInt(float)) => float,
        Err(TokenError::OutOfRange) if raw.starts_with('-') => 0.0,
        Err(TokenError::OutOfRange) => f64::INFINITY,
        _ => return Err(JsonError::invalid_params("\"deadline_ms\" must be a number")),
    };
    let seconds = (milliseconds / 1e3).clamp(0.0, NO_DEADLINE.as_secs_f64());
    Ok(Duration::from_secs_f64(seconds))
}

fn trace(raw: &str) -> Result<u128, JsonError> {
    let digits = serde_json::from_str::<Cow<'_, str>>(raw).unwrap_or_default();
    let id = (digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(&digits, 16).ok())
        .flatten();
    let wrong =
        || JsonError::invalid_params("\"trace_id\" must be a string of 32 hexadecimal digits, not all 0");
    id.filter(|id| *id != 0).ok_or_else(wrong)
}

/// What the decoder says, with the place in the line: it knows of one line only.
fn not_json(error: &serde_json::Error) -> JsonError {
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match said.strip_suffix(&place) {
        Some(said) => JsonError::parse(format!("not JSON: {said} at column {} of the line", error.column())),
        None => JsonError::parse(format!("not JSON: {said}")),
    }
}

/// The members of a batch, at most so many.
///
/// # Errors
/// It is no JSON, or no batch.
pub(super) fn members(text: &str, limit: usize) -> Result<Vec<&RawValue>, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_seq(Batch { limit }).and_then(|members| {
        deserializer.end()?;
        Ok(members)
    });
    let members = members.map_err(|error| not_json(&error))?;
    match members.len() {
        0 => Err(JsonError::invalid_request("a batch must have at least one request")),
        count if count > limit => {
            Err(JsonError::invalid_request(format!("a batch must have at most {limit} requests")))
        }
        _ => Ok(members),
    }
}

/// Keeps one more than the limit.
struct Batch {
    limit: usize,
}

impl<'de> Visitor<'de> for Batch {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a batch")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while members.len() <= self.limit
            && let Some(member) = list.next_element()?
        {
            members.push(member);
        }
        while let Some(IgnoredAny) = list.next_element()? {}
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(members: &str) -> Envelope {
        read(&format!("{{\"jsonrpc\":\"2.0\",\"method\":\"m\"{members}}}")).unwrap()
    }

    #[test]
    fn a_null_id_is_an_id_and_an_absent_one_is_none() {
        let id = |members| of(members).caller.id;
        assert_eq!(id(""), None);
        assert_eq!(id(r#","id":null"#).as_deref(), Some("null"));
        assert_eq!(id(r#","id":  1e400 "#).as_deref(), Some("1e400"));
    }

    #[test]
    fn a_deadline_is_never_more_than_a_timer_takes() {
        let ms = |text: &str| of(&format!(",\"deadline_ms\":{text}")).deadline;
        for (text, deadline) in [
            ("null", None),
            ("0", Some(Duration::ZERO)),
            ("-0.0", Some(Duration::ZERO)),
            ("-1e400", Some(Duration::ZERO)),
            ("1500.5", Some(Duration::from_micros(1_500_500))),
            ("1e-9", Some(Duration::ZERO)),
            ("18446744073709551616", Some(NO_DEADLINE)),
            ("1e308", Some(NO_DEADLINE)),
            ("1e400", Some(NO_DEADLINE)),
        ] {
            assert_eq!(ms(text), deadline, "{text}");
        }
        for text in ["\"5\"", "true", "[]", "{}"] {
            assert!(read(&format!("{{\"method\":\"m\",\"deadline_ms\":{text}}}")).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_of_one_is_its_element_and_what_else_stands_in_an_object_there_is_heard() {
        let text = r#"{"method":"m","id":1,"params": [ {"a":1,"deadline_ms":5} ]}"#;
        let envelope = read(text).unwrap();
        assert_eq!(&text[envelope.params.unwrap()], r#"{"a":1,"deadline_ms":5}"#);
        assert_eq!((envelope.deadline, envelope.positional), (Some(Duration::from_millis(5)), true));
        let text = r#"{"method":"m","params":{"deadline_ms":5}}"#;
        let envelope = read(text).unwrap();
        assert_eq!((envelope.deadline, envelope.positional), (None, false));
        for (params, kept) in
            [("[1,2]", Some("[1,2]")), ("[]", Some("[]")), ("[7]", Some("7")), ("null", None)]
        {
            let text = format!("{{\"method\":\"m\",\"params\":{params}}}");
            assert_eq!(read(&text).unwrap().params.map(|place| &text[place]), kept, "{params}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_what_would_be_one() {
        let example = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        assert!(read(example).is_ok());
        for (text, code, said) in [
            (r#"["2.0",1,"ping"]"#, -32600, format!("a request must be an object, as {example}")),
            ("7", -32600, format!("a request must be an object, as {example}")),
            (
                "{}",
                -32600,
                format!(r#""jsonrpc" must be "2.0" (or left out, in JSON-RPC 1.0), as in {example}"#),
            ),
            (r#"{"jsonrpc":"2.0"}"#, -32600, format!(r#""method" must be a string, as in {example}"#)),
            (r#"{"method":"m","method":"m"}"#, -32600, r#"a request has "method" twice"#.into()),
            (
                r#"{"method":"m""#,
                -32700,
                "not JSON: EOF while parsing an object at column 13 of the line".into(),
            ),
            ("ping", -32700, "not JSON: expected value at column 1 of the line".into()),
            (
                r#"{"method":"m","params":[{"trace_id":"","trace_id":""}]}"#,
                -32602,
                r#""params" has "trace_id" twice"#.into(),
            ),
        ] {
            let error = serde_json::to_value(read(text).unwrap_err().error).unwrap();
            assert_eq!((&error["code"], error["message"].as_str()), (&code.into(), Some(&*said)), "{text}");
        }
    }

    #[test]
    fn a_trace_id_has_32_digits() {
        let id = "00000000000000000000000000ab12CD";
        assert_eq!(of(&format!(",\"trace_id\":\"{id}\"")).trace_id, Some(0x00ab_12cd));
        for wrong in ["7", "\"\"", "\"+0000000000000000000000000ab12cd\"", &format!("\"{}\"", "0".repeat(32))]
        {
            assert!(read(&format!("{{\"method\":\"m\",\"trace_id\":{wrong}}}")).is_err(), "{wrong}");
        }
    }
}

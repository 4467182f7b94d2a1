//! What is said in JSON: results, errors and their codes, in the form of the request's version.

use std::io::{self, ErrorKind};

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tarpc::ServerError;

use super::envelope::{Caller, Version};
use crate::crash::Crash;
use crate::fault::Fault;

/// Why a request has no result: a code, a message for people, and data whose `kind` is for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JsonError {
    code: i32,
    message: String,
    data: Value,
}

/// The line is no JSON.
const PARSE: i32 = -32700;
/// It is JSON, but no request.
const INVALID_REQUEST: i32 = -32600;
const UNKNOWN_METHOD: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL: i32 = -32603;
/// The service says why it has no result: the data is the [`Fault`].
const FAULT: i32 = -32000;
const DEADLINE: i32 = -32001;
/// Workers died of this call: the data has the last one's end.
const CRASHED: i32 = -32002;
const REPLY_TOO_LARGE: i32 = -32003;
/// The connection is about to be closed; it answers no request.
const CLOSING: i32 = -32004;

impl JsonError {
    fn new(code: i32, kind: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let data = json!({ "kind": kind, "message": message });
        JsonError { code, message, data }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn parse(message: impl Into<String>) -> Self {
        Self::new(PARSE, "parse_error", message)
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(INVALID_REQUEST, "invalid_request", message)
    }

    /// The service has no such method; `there_are` names those that it has.
    pub fn unknown_method(method: &str, there_are: &str) -> Self {
        let shown: String = method.chars().take(64).collect();
        let message = format!("there is no method {shown:?}; there are {there_are}");
        Self::new(UNKNOWN_METHOD, "unknown_method", message)
    }

    /// The method takes other parameters.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, "invalid_params", message)
    }

    pub(super) fn deadline() -> Self {
        Self::new(DEADLINE, "deadline", "the deadline has passed")
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the reply is over the limit of a message, {limit} bytes");
        Self::new(REPLY_TOO_LARGE, "reply_too_large", message)
    }

    pub(super) fn closing(reason: &io::Error) -> Self {
        Self::new(CLOSING, "closing", format!("the connection is closed: {reason}"))
    }
}

impl From<&Fault> for JsonError {
    fn from(fault: &Fault) -> Self {
        let data = serde_json::to_value(fault).unwrap_or_default();
        JsonError { code: FAULT, message: fault.message.clone(), data }
    }
}

impl From<&ServerError> for JsonError {
    fn from(error: &ServerError) -> Self {
        let Some(crash) = Crash::from_error(error) else {
            return Self::new(INTERNAL, "internal", error.detail.clone());
        };
        let mut told = Self::new(CRASHED, "crashed", format!("workers died of this call: {crash}"));
        if let (Some(data), Ok(Value::Object(crash))) =
            (told.data.as_object_mut(), serde_json::to_value(&crash))
        {
            data.extend(crash);
        }
        told
    }
}

/// A result in JSON cannot be had.
impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(INTERNAL, "internal", format!("the reply cannot be encoded: {error}"))
    }
}

/// Writes into `out` at most `limit` bytes.
pub(super) struct Room<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) limit: usize,
    pub(super) over: bool,
}

impl io::Write for Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.len() + bytes.len() > self.limit {
            self.over = true;
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const NULL: &str = "null";

/// A reply is over its limit.
#[derive(Debug)]
pub(super) struct TooLarge;

/// A reply with the result that `write` writes, of at most `limit` bytes.
pub(super) fn result(
    caller: &Caller,
    limit: usize,
    write: impl FnOnce(&mut dyn io::Write) -> Result<(), JsonError>,
) -> Result<Vec<u8>, TooLarge> {
    let id = caller.id.as_deref().unwrap_or(NULL);
    let (head, tail) = match caller.version {
        Version::Two => (format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":"), "}"),
        Version::One => (format!("{{\"id\":{id},\"result\":"), ",\"error\":null}"),
    };
    let mut reply = head.into_bytes();
    let room = limit.saturating_sub(tail.len());
    let mut out = Room { out: &mut reply, limit: room, over: false };
    let written = write(&mut out);
    if out.over {
        return Err(TooLarge);
    }
    if let Err(unsaid) = written {
        return Ok(error(caller, &unsaid));
    }
    reply.extend_from_slice(tail.as_bytes());
    Ok(reply)
}

/// A reply without a result. Version 1 says nothing of what errors look like: Go's client shows a string, and closes
/// the connection on anything else.
pub(super) fn error(caller: &Caller, error: &JsonError) -> Vec<u8> {
    #[derive(Serialize)]
    struct Two<'a> {
        jsonrpc: &'a str,
        id: &'a RawValue,
        error: &'a JsonError,
    }
    #[derive(Serialize)]
    struct One<'a> {
        id: &'a RawValue,
        result: (),
        error: String,
    }
    let id = caller.id.as_deref().and_then(|id| serde_json::from_str(id).ok()).unwrap_or(RawValue::NULL);
    let reply = match caller.version {
        Version::Two => serde_json::to_vec(&Two { jsonrpc: "2.0", id, error }),
        Version::One => {
            let kind = error.data.get("kind").and_then(Value::as_str).unwrap_or("error");
            serde_json::to_vec(&One { id, result: (), error: format!("{kind}: {}", error.message) })
        }
    };
    // Nothing in it can fail to be encoded.
    reply.unwrap_or_default()
}

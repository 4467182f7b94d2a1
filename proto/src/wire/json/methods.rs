//! What a service is to clients that speak JSON.

use std::io::Write;

use serde_json::value::RawValue;

use super::reply::JsonError;

/// A service's methods, for clients that speak JSON.
pub struct Methods<Req, Resp> {
    /// The request of a method's name and parameters.
    pub request: fn(&str, Params<'_>) -> Result<Req, JsonError>,
    /// Writes a reply's result, which is not null.
    pub reply: fn(Resp, &mut dyn Write) -> Result<(), JsonError>,
}

impl<Req, Resp> Clone for Methods<Req, Resp> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Req, Resp> Copy for Methods<Req, Resp> {}

/// A method's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Params<'a> {
    /// As they were written. They are an object or a list, or the only element of one.
    pub json: Option<&'a RawValue>,
    /// Whether they were the only element of a list. Such an object may name `deadline_ms` and `trace_id`, too, which are
    /// no affair of the method.
    pub positional: bool,
}

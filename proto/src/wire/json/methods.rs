//! What a service is to clients that speak JSON.

use std::io::Write;

use serde_json::value::RawValue;

use super::object::{OPTIONS, members};
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
    /// As they were written: whatever stands there, or the only element of the list that does.
    pub json: Option<&'a RawValue>,
    /// Whether they were the only element of a list. Such an object may name `deadline_ms` and `trace_id`, too, which are
    /// no affair of the method.
    pub positional: bool,
}

impl<'a> Params<'a> {
    /// The members of these names; a null is as good as none.
    ///
    /// # Errors
    /// They are no object, have one of them twice, or have others. `example` is what is told of objects that will do.
    pub fn members<const N: usize>(
        &self,
        names: [&'static str; N],
        example: &str,
    ) -> Result<[Option<&'a RawValue>; N], JsonError> {
        let passed = if self.positional { &OPTIONS[..] } else { &[] };
        members(self.json, names, passed, "\"params\"", example)
    }
}

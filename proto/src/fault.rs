//! Faults: what a method answers instead of a result. They travel inside the method's own `Result`, because
//! tarpc's `ServerError` carries no more than an `io::ErrorKind` and a string.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a call has no result: what happened and, where there is one, the place.
///
/// Absent places are written out: a field left out would shift the rest where structs travel as arrays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Fault {
    /// Which kind of fault it is, for programs.
    pub kind: FaultKind,
    /// What happened and what to do about it, for people: a lowercase fragment without the place.
    pub message: String,
    /// Which of the query's sources it concerns, from 0.
    #[serde(default)]
    pub source_index: Option<u32>,
    /// The line of that source, from 1.
    #[serde(default)]
    pub line: Option<u64>,
    /// The column of that line in bytes, from 1. In a list of numbers: the position in the list.
    #[serde(default)]
    pub column: Option<u64>,
}

/// The kinds of fault. Their names are part of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A token that follows no rule of the grammar.
    NotANumber,
    /// A finite token beyond the largest `f64`.
    OutOfRange,
    /// A missing value where none is allowed.
    MissingValue,
    /// The bytes are not laid out as the format that was named has it.
    Malformed,
    /// No numbers at all.
    EmptyInput,
    /// The input could not be read: not readable, a directory, an I/O error.
    Unreadable,
    /// No attachment of that number on this connection.
    NoAttachment,
    /// A pipe that an earlier call has read, asked for again in a way that needs its bytes anew.
    InputConsumed,
    /// Something is over a limit; the message names the limit and the way round it.
    TooLarge,
    /// No byte of input came for as long as the limit allows.
    InputIdle,
    /// The call was cancelled.
    Cancelled,
    /// The worker died while it executed the call.
    Crashed,
    /// A defect of the service itself.
    Internal,
}

impl Fault {
    /// A fault without a place.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault { kind, message: message.into(), source_index: None, line: None, column: None }
    }

    /// The same fault, in this source of the query.
    #[must_use]
    pub fn in_source(self, index: u32) -> Self {
        Fault { source_index: Some(index), ..self }
    }

    /// The same fault, at this line and column, both from 1.
    #[must_use]
    pub fn at(self, line: u64, column: u64) -> Self {
        Fault { line: Some(line), column: Some(column), ..self }
    }
}

/// The name in the protocol: `not_a_number`, `empty_input` and so on.
impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

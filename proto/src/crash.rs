//! A call that its workers died of, and how its caller is told.
//!
//! The host learns from the scoreboard which calls were executing when a worker died, names them to the next one, and
//! condemns a call that is found so twice. The worker that is asked for a condemned call answers it with its [`Crash`].

use std::fmt;
use std::io::ErrorKind;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tarpc::ServerError;

/// How the last worker that executed a condemned call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// Which worker of its host it was, from 1.
    pub generation: u64,
    /// The signal or the exit status, in words: `killed by SIGABRT`, `exited 3`.
    pub cause: String,
    /// The last lines of its stderr, oldest first, fit to be shown.
    pub stderr_tail: Vec<String>,
}

/// The detail of the error that carries it: a marked object, so that no other error reads as one.
#[derive(Serialize, Deserialize)]
struct Detail {
    crashed: Crash,
}

impl Crash {
    /// The reply to a condemned call.
    pub fn to_error(&self) -> ServerError {
        let detail = serde_json::to_string(&Detail { crashed: self.clone() });
        ServerError::new(ErrorKind::ConnectionAborted, detail.unwrap_or_else(|error| error.to_string()))
    }

    /// The crash that a reply tells of; `None` for any other error.
    pub fn from_error(error: &ServerError) -> Option<Self> {
        let told =
            (error.kind == ErrorKind::ConnectionAborted).then(|| serde_json::from_str(&error.detail).ok());
        told.flatten().map(|Detail { crashed }| crashed)
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (generation {})", self.cause, self.generation)
    }
}

/// The id that a call keeps however often it is sent: 32 hexadecimal digits wherever it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u128::from_str_radix(&digits, 16).map(TraceId).map_err(de::Error::custom)
    }
}

/// A call that is not to be executed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// Its trace id.
    pub trace_id: TraceId,
    /// What it is answered with.
    pub crash: Crash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_travels_in_an_error_and_no_other_error_reads_as_one() {
        let crash =
            Crash { generation: 7, cause: "killed by SIGABRT".into(), stderr_tail: vec!["a\"\n".into()] };
        let error = crash.to_error();
        assert_eq!(Crash::from_error(&error), Some(crash));
        assert_eq!(Crash::from_error(&ServerError::new(ErrorKind::Other, error.detail)), None);
        assert_eq!(Crash::from_error(&ServerError::new(ErrorKind::ConnectionAborted, "{}".into())), None);
    }

    #[test]
    fn a_trace_id_is_written_as_in_the_log() {
        let id = TraceId(0xab12);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{}ab12\"", "0".repeat(28)));
        assert_eq!(serde_json::from_str::<TraceId>("\"ab12\"").unwrap(), id);
    }
}

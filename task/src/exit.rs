//! How a run ends: every way it fails, as data, with one map to exit codes and one to the JSON error line.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use task_host::client::Outcome;
use task_host::control::NotRestarted;
use task_host::lock::LockError;
use task_host::record::safe_json;
use task_host::run_dir::Base;
use task_host::screen::Escaped;
use task_proto::fault::{Fault, FaultKind};
use task_proto::stats::{Format, Source};

use crate::signals::{self, Signal};
use crate::wording;

/// The data or the call is at fault.
pub const DATA: u8 = 1;
/// The command line is at fault.
pub const USAGE: u8 = 2;
/// No service is running.
pub const NO_SERVICE: u8 = 3;
/// No answer in time, as of timeout(1).
pub const DEADLINE: u8 = 124;

/// Every way a run fails. The text of each is a fragment without the place: see [`Failure::text`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line says nothing that can be done.
    #[error("{0}")]
    Usage(String),
    /// The same of the words after a command.
    #[error("{message}")]
    CommandUsage {
        /// Whose help tells more.
        command: String,
        /// What is wrong.
        message: String,
    },
    /// An input cannot be used: not there, not readable, too many.
    #[error("{message}")]
    Input {
        /// What is wrong, for programs.
        kind: InputKind,
        /// What is wrong, and the way round it.
        message: String,
        /// Where.
        place: Place,
    },
    /// The numbers are at fault, or the service: what the worker answers, and what the parent finds in arguments.
    #[error("{}", fault.message)]
    Fault {
        /// The fault, as it came.
        fault: Fault,
        /// Name of the input that it concerns.
        input: Option<String>,
        /// That input is no text: what the fault has for a column is a position among its values.
        values: bool,
    },
    /// The call took too long.
    #[error("{}", late(*.limit, *.outcome))]
    Deadline {
        /// How long it was given.
        limit: Duration,
        /// Whether it may have been executed. `None`: that matters to nobody, its worker is gone.
        outcome: Option<Outcome>,
    },
    /// There is no worker to ask.
    #[error("cannot start {}: {reason}", program.display())]
    CannotStart {
        /// What was run.
        program: PathBuf,
        /// Why it does not serve, with its exit status if it had one.
        reason: String,
        /// The last lines that it wrote to its standard error.
        stderr: Vec<String>,
    },
    /// The worker died after it had begun to read what cannot be read again, or may have begun.
    #[error("{}; run it again, from a file to be safe from this", consumed(*.bytes, .cause.as_deref()))]
    InputConsumed {
        /// Bytes that are gone; `None`: nobody knows.
        bytes: Option<u64>,
        /// What killed the worker: a signal or an exit status. `None`: nobody knows.
        cause: Option<String>,
    },
    /// The worker died while it executed the call, and may not try again.
    #[error("the worker died ({cause}) while it computed, in generation {generation}")]
    Crashed {
        /// What killed the worker: a signal or an exit status.
        cause: String,
        /// Which worker of this run it was, from 1.
        generation: u64,
        /// The last lines that it wrote to its standard error.
        stderr: Vec<String>,
    },
    /// Nothing runs that could be asked.
    #[error("{}", no_service(place, *.found))]
    NoService {
        /// Where it would be: its directory, or its socket.
        place: PathBuf,
        /// What is there in its place.
        found: Found,
    },
    /// A service runs already.
    #[error("{0}")]
    AlreadyServing(LockError),
    /// The new worker did not come to serve.
    #[error("not restarted: {0}")]
    NotRestarted(NotRestarted),
    /// Workers died one after another before they had answered anything.
    #[error("gave up: workers die before they have answered a call, the last one {why}")]
    GaveUp {
        /// What became of the last.
        why: String,
        /// The last lines that it wrote to its standard error.
        stderr: Vec<String>,
    },
    /// The service that is to be asked cannot be, or the call was lost on the way.
    #[error("{message}")]
    Call {
        /// Which of these, for programs.
        kind: CallKind,
        /// What happened, and what can be done.
        message: String,
    },
    /// The runtime directory cannot be used.
    #[error("{0}")]
    RuntimeDir(String),
    /// The answer cannot be written: a full disk.
    #[error("cannot write the answer: {0}")]
    Output(io::Error),
    /// Whoever read the answer has gone.
    #[error("standard output is closed")]
    ClosedOutput,
    /// A signal asked for the end.
    #[error("stopped by {0}")]
    Signal(Signal),
    /// The system or this program fails at something that always works.
    #[error("{0}")]
    Internal(String),
}

/// What can be wrong with an input before the worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// No file of that name.
    NotFound,
    /// A directory.
    IsADirectory,
    /// It is there but cannot be read.
    Unreadable,
    /// Over a limit; the message names the limit and the way round it.
    TooLarge,
}

/// The name in the JSON error line: `not_found`, `is_a_directory` and so on.
impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What is there where no service is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No socket.
    Nothing,
    /// The socket of a service that was killed.
    DeadSocket,
    /// A service that takes no more calls.
    Stopping,
}

/// What can come between a call and the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// It runs but takes no connection. Nothing was sent.
    BacklogFull,
    /// Its socket belongs to somebody else. Nothing was sent.
    PermissionDenied,
    /// Its socket is none. Nothing was sent.
    NoSocket,
    /// It runs but does not answer.
    NoAnswer,
    /// The call was not sent.
    NeverSent,
    /// The call may have been executed, and there is no telling.
    OutcomeUnknown,
}

/// The name in the JSON error line: `backlog_full` and so on.
impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Where in the input something is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the input, as the user wrote it.
    pub input: Option<String>,
    /// Its line, from 1.
    pub line: Option<u64>,
    /// The column of that line in bytes, from 1.
    pub column: Option<u64>,
    /// Of an input that is no text: which of its values, from 1.
    pub value: Option<u64>,
}

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exits with this code.
    Code(u8),
    /// It dies of this signal, so that the shell sees the truth.
    Signal(Signal),
}

impl Place {
    /// Somewhere in the input of this name.
    pub fn of(input: impl Into<String>) -> Self {
        Place { input: Some(input.into()), ..Place::default() }
    }
}

impl Failure {
    /// A fault of the service, about one of these sources, which have these names.
    pub fn from_fault(fault: Fault, sources: &[Source], names: &[String]) -> Self {
        let fault = wording::fault(fault);
        let index = fault.source_index.map(|index| index as usize);
        let input = index.and_then(|index| names.get(index)).cloned();
        let source = index.and_then(|index| sources.get(index));
        let values = matches!(source, Some(Source::Attached { format, .. }) if *format != Format::Text);
        Failure::Fault { fault, input, values }
    }

    /// The one map from failures to what becomes of the process.
    pub fn ending(&self) -> Ending {
        match self {
            Failure::Usage(_) | Failure::CommandUsage { .. } => Ending::Code(USAGE),
            Failure::Input { .. }
            | Failure::Fault { .. }
            | Failure::CannotStart { .. }
            | Failure::InputConsumed { .. }
            | Failure::Crashed { .. }
            | Failure::AlreadyServing(_)
            | Failure::NotRestarted(_)
            | Failure::GaveUp { .. }
            | Failure::Call { .. }
            | Failure::RuntimeDir(_)
            | Failure::Output(_)
            | Failure::Internal(_) => Ending::Code(DATA),
            Failure::NoService { .. } => Ending::Code(NO_SERVICE),
            Failure::Deadline { .. } => Ending::Code(DEADLINE),
            Failure::ClosedOutput => Ending::Signal(Signal::Pipe),
            Failure::Signal(signal) => Ending::Signal(*signal),
        }
    }

    /// What happened, for programs: the `kind` of the JSON error line.
    pub fn kind(&self) -> String {
        let kind = match self {
            Failure::Usage(_) | Failure::CommandUsage { .. } => "usage",
            Failure::Input { kind, .. } => return kind.to_string(),
            Failure::Fault { fault, .. } => return fault.kind.to_string(),
            Failure::Deadline { .. } => "deadline",
            Failure::CannotStart { .. } => "cannot_start",
            Failure::InputConsumed { .. } => return FaultKind::InputConsumed.to_string(),
            Failure::Crashed { .. } => return FaultKind::Crashed.to_string(),
            Failure::NoService { .. } => "no_service",
            Failure::AlreadyServing(_) => "already_serving",
            Failure::NotRestarted(_) => "not_restarted",
            Failure::GaveUp { .. } => "gave_up",
            Failure::Call { kind, .. } => return kind.to_string(),
            Failure::RuntimeDir(_) => "runtime_dir",
            Failure::Output(_) => "output",
            Failure::ClosedOutput => "closed_output",
            Failure::Signal(_) => "signal",
            Failure::Internal(_) => return FaultKind::Internal.to_string(),
        };
        kind.to_owned()
    }

    /// Whether a call that a running service did not answer may have been executed, where that is the question.
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Failure::Deadline { outcome, .. } => *outcome,
            Failure::NoService { .. } => Some(Outcome::NeverSent),
            Failure::Call { kind, .. } => Some(match kind {
                CallKind::BacklogFull
                | CallKind::PermissionDenied
                | CallKind::NoSocket
                | CallKind::NeverSent => Outcome::NeverSent,
                CallKind::NoAnswer | CallKind::OutcomeUnknown => Outcome::Unknown,
            }),
            _ => None,
        }
    }

    /// For people: `task: a.txt:3:5: "abc" is not a number`, then the worker's last words if it had any.
    pub fn text(&self) -> String {
        let mut text = format!("task: {}{}", self.place(), Escaped(&self.to_string()));
        // Writing to a String cannot fail.
        let _ = match self {
            Failure::Usage(_) => write!(text, "; see task --help"),
            Failure::CommandUsage { command, .. } => write!(text, "; see task {command} --help"),
            _ => Ok(()),
        };
        for line in self.last_words() {
            let _ = write!(text, "\n  | {}", Escaped(line));
        }
        text
    }

    /// For programs: one line, `{"error":{"kind":"not_a_number","message":"…","input":"a.txt","line":3,"column":5}}`.
    pub fn json(&self) -> String {
        let Place { input, line, column, value } = self.place();
        let stderr = self.last_words();
        let (kind, message, outcome) = (self.kind(), self.to_string(), self.outcome());
        let error = ErrorLine { kind, message, input, line, column, value, outcome, stderr };
        // Strings and integers alone: this cannot fail.
        let line = serde_json::to_string(&Document { error }).unwrap_or_else(|error| error.to_string());
        safe_json(&line).into_owned()
    }

    /// Says what happened on standard error and ends as [`Failure::ending`] says. Call it last, with everything cleaned up.
    pub fn end(&self, json: bool) -> ExitCode {
        if !matches!(self, Failure::ClosedOutput | Failure::Signal(_)) {
            say(&if json { self.json() } else { self.text() });
        }
        match self.ending() {
            Ending::Code(code) => ExitCode::from(code),
            Ending::Signal(signal) => signals::reraise(signal),
        }
    }

    fn place(&self) -> Place {
        match self {
            Failure::Input { place, .. } => place.clone(),
            Failure::Fault { fault, input, values } => {
                let (column, value) = if *values { (None, fault.column) } else { (fault.column, None) };
                Place { input: input.clone(), line: fault.line, column, value }
            }
            _ => Place::default(),
        }
    }

    fn last_words(&self) -> &[String] {
        match self {
            Failure::CannotStart { stderr, .. }
            | Failure::Crashed { stderr, .. }
            | Failure::GaveUp { stderr, .. }
            | Failure::NotRestarted(NotRestarted { stderr_tail: stderr, .. }) => stderr,
            _ => &[],
        }
    }
}

fn no_service(place: &Path, found: Found) -> String {
    // Its directory, or a socket in it.
    let directory =
        if place.extension().is_some_and(|end| end == "sock") { place.parent() } else { Some(place) };
    let serve = match directory.filter(|directory| *directory != Base::place(None)) {
        Some(directory) => format!("task serve --runtime-dir {}", directory.display()),
        None => "task serve".to_owned(),
    };
    let place = place.display();
    match found {
        Found::Nothing => format!("no service is running at {place}: start one with {serve}"),
        Found::DeadSocket => {
            format!(
                "no service is running at {place}, though one has left its socket there: start one with {serve}"
            )
        }
        Found::Stopping => {
            format!("the service at {place} is stopping: start another with {serve} when it has ended")
        }
    }
}

fn late(limit: Duration, outcome: Option<Outcome>) -> String {
    match outcome {
        Some(outcome) => format!("{outcome}: no answer within {limit:?} (--timeout); see task status"),
        None => format!("no answer within {limit:?} (--timeout)"),
    }
}

fn consumed(bytes: Option<u64>, cause: Option<&str>) -> String {
    let who = match cause {
        Some(cause) => format!("the worker died ({cause})"),
        None => "the connection was lost".to_owned(),
    };
    match bytes {
        Some(bytes) => format!("{who} after it had read {bytes} bytes of an input that cannot be read again"),
        None => format!("{who} after it may have read from an input that cannot be read again"),
    }
}

/// Writes an answer to standard output, to its end.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedOutput,
        _ => Failure::Output(error),
    })
}

/// Writes a line to standard error. Should that be closed, nobody is left to tell; `eprintln!` would panic.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The prefix of a message: `a.txt:3:5: `, `argument 2, column 3: `, `a.f64: value 17: `, or nothing.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input = self.input.as_deref().map(Escaped);
        match (input, self.line, self.column) {
            (None, None, None) => Ok(()),
            (Some(input), None, None) => write!(f, "{input}: "),
            (Some(input), Some(line), None) => write!(f, "{input}:{line}: "),
            (Some(input), Some(line), Some(column)) => write!(f, "{input}:{line}:{column}: "),
            (Some(input), None, Some(column)) => write!(f, "{input}, column {column}: "),
            (None, Some(line), None) => write!(f, "line {line}: "),
            (None, Some(line), Some(column)) => write!(f, "line {line}, column {column}: "),
            (None, None, Some(column)) => write!(f, "column {column}: "),
        }?;
        self.value.map_or(Ok(()), |value| write!(f, "value {value}: "))
    }
}

/// What [`Failure::json`] writes.
#[derive(Serialize)]
struct Document<'a> {
    error: ErrorLine<'a>,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    kind: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stderr: &'a [String],
}

#[cfg(test)]
mod tests;

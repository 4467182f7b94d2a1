//! The service: Mean, Median and Mode of one sequence of numbers, with its requests and replies.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::number::Number;

/// Statistics of one sequence of numbers. Definitions are exact; see each reply.
#[tarpc::service]
pub trait Stats {
    /// The `f64` nearest to the exact rational mean.
    async fn mean(query: Query) -> Result<Mean, Fault>;
    /// The middle value, or the `f64` nearest to the exact midpoint of the two middle values.
    async fn median(query: Query) -> Result<Median, Fault>;
    /// Every value that occurs most often.
    async fn mode(query: Query) -> Result<Mode, Fault>;
    /// Answers at once: the way to learn that the service is there.
    async fn ping() -> Pong;
    /// Closes an attachment of this connection; its number is not used again.
    async fn release(attached: u32) -> Result<(), Fault>;
}

/// What to compute on. On the wire flat: one of `{"numbers":[…]}`, `{"attached":0,"format":"text"}` and
/// `{"inputs":[…]}` (a list of the first two, which are one sequence), and `"missing"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WireQuery", into = "WireQuery")]
pub struct Query {
    /// The parts of the sequence, in order.
    pub sources: Vec<Source>,
    /// What a missing value is.
    pub missing: Missing,
}

/// One part of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Numbers in the request itself. NaN is a missing value.
    Numbers(Vec<Number>),
    /// A descriptor that came with the connection, read from its current offset to its end.
    Attached {
        /// Its number: descriptors of a connection count 0, 1, 2… in order of arrival.
        attached: u32,
        /// How its bytes are to be read.
        format: Format,
    },
}

/// How the bytes of an attachment are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Decimal numbers between white space or commas.
    #[default]
    Text,
}

/// What to do with a missing value: NaN, `NA`, `null`, an empty field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// It is an error that names the place.
    #[default]
    Error,
    /// It is left out and counted.
    Skip,
}

/// The mean. It never overflows and never depends on order, threads or machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The `f64` nearest to the exact rational mean (ties to even). NaN for opposite infinities.
    pub value: Number,
    /// How many numbers there were.
    pub count: u64,
    /// How many missing values were skipped.
    #[serde(default)]
    pub missing: u64,
    /// What the reader ought to know of the input.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The median.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// The middle value; for an even count the `f64` nearest to the exact midpoint of `low` and `high`.
    pub value: Number,
    /// The lower of the two middle values, exact.
    pub low: Number,
    /// The upper of the two middle values, exact.
    pub high: Number,
    /// How many numbers there were.
    pub count: u64,
    /// How many missing values were skipped.
    #[serde(default)]
    pub missing: u64,
    /// What the reader ought to know of the input.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The mode: every value that occurs most often. None (`total` 0) when two or more distinct values all occur
/// equally often; a single distinct value is its own mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mode {
    /// The modes, ascending; at most [`MODES_LISTED`](crate::limits::MODES_LISTED) of them.
    pub values: Vec<Number>,
    /// How often each of them occurs (also where there is no mode).
    pub frequency: u64,
    /// How many modes there are, listed or not.
    pub total: u64,
    /// How many numbers there were.
    pub count: u64,
    /// How many missing values were skipped.
    #[serde(default)]
    pub missing: u64,
    /// What the reader ought to know of the input.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The answer to `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Process id of the worker that answered.
    pub pid: u32,
    /// Its generation under this parent; 0 when it runs alone.
    pub generation: u64,
}

impl Query {
    /// A query on numbers in the request itself, where a missing value is an error.
    pub fn numbers(numbers: Vec<Number>) -> Self {
        Query { sources: vec![Source::Numbers(numbers)], missing: Missing::Error }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    numbers: Option<Vec<Number>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attached: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inputs: Option<Vec<WireSource>>,
    #[serde(default, skip_serializing_if = "is_default")]
    missing: Missing,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    numbers: Option<Vec<Number>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attached: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
}

const ONE_OF: &str = "name the input by exactly one of numbers, attached (with format) and inputs";

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_default(missing: &Missing) -> bool {
    *missing == Missing::default()
}

impl TryFrom<WireSource> for Source {
    type Error = &'static str;

    fn try_from(wire: WireSource) -> Result<Self, Self::Error> {
        match wire {
            WireSource { numbers: Some(numbers), attached: None, format: None } => {
                Ok(Source::Numbers(numbers))
            }
            WireSource { numbers: None, attached: Some(attached), format } => {
                Ok(Source::Attached { attached, format: format.unwrap_or_default() })
            }
            _ => Err(ONE_OF),
        }
    }
}

impl From<Source> for WireSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Numbers(numbers) => WireSource { numbers: Some(numbers), attached: None, format: None },
            Source::Attached { attached, format } => {
                WireSource { numbers: None, attached: Some(attached), format: Some(format) }
            }
        }
    }
}

impl TryFrom<WireQuery> for Query {
    type Error = &'static str;

    fn try_from(wire: WireQuery) -> Result<Self, Self::Error> {
        let WireQuery { numbers, attached, format, inputs, missing } = wire;
        let sources = match inputs {
            None => vec![WireSource { numbers, attached, format }.try_into()?],
            Some(inputs) if numbers.is_none() && attached.is_none() && format.is_none() => {
                inputs.into_iter().map(Source::try_from).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(ONE_OF),
        };
        Ok(Query { sources, missing })
    }
}

impl From<Query> for WireQuery {
    fn from(query: Query) -> Self {
        let Query { mut sources, missing } = query;
        let empty = WireQuery { numbers: None, attached: None, format: None, inputs: None, missing };
        if sources.len() != 1 {
            return WireQuery { inputs: Some(sources.into_iter().map(WireSource::from).collect()), ..empty };
        }
        let WireSource { numbers, attached, format } = sources.remove(0).into();
        WireQuery { numbers, attached, format, ..empty }
    }
}

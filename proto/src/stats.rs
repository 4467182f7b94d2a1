//! The service: Mean, Median and Mode of one sequence of numbers, with its requests and replies.

pub mod json;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::fault::Fault;
use crate::number::Number;
use crate::numbers::Numbers;

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
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "WireQuery")]
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
    Numbers(Numbers),
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
    /// 64-bit floats, eight bytes each, little-endian. NaN is a missing value.
    F64,
    /// 64-bit integers, eight bytes each, little-endian.
    I64,
    /// An array as NumPy saves it: one dimension of floats or integers. NaN is a missing value.
    Npy,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 4] = [Format::Text, Format::F64, Format::I64, Format::Npy];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::F64 => "f64",
            Format::I64 => "i64",
            Format::Npy => "npy",
        }
    }
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
        Query { sources: vec![Source::Numbers(numbers.into())], missing: Missing::Error }
    }
}

/// The flat form, as it is read. It is always a map, also where a format writes structs as arrays: fields are left
/// out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQuery {
    #[serde(default)]
    numbers: Option<Numbers>,
    #[serde(default)]
    attached: Option<u32>,
    #[serde(default)]
    format: Option<Format>,
    #[serde(default)]
    inputs: Option<Vec<WireSource>>,
    #[serde(default)]
    missing: Missing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSource {
    #[serde(default)]
    numbers: Option<Numbers>,
    #[serde(default)]
    attached: Option<u32>,
    #[serde(default)]
    format: Option<Format>,
}

const ONE_OF: &str = "name the input by exactly one of numbers, attached (with format) and inputs";

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

impl Source {
    fn serialize_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match self {
            Source::Numbers(numbers) => map.serialize_entry("numbers", numbers),
            Source::Attached { attached, format } => {
                map.serialize_entry("attached", attached)?;
                map.serialize_entry("format", format)
            }
        }
    }

    fn fields(&self) -> usize {
        match self {
            Source::Numbers(_) => 1,
            Source::Attached { .. } => 2,
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields()))?;
        self.serialize_fields(&mut map)?;
        map.end()
    }
}

impl Serialize for Query {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = if let [source] = &self.sources[..] { source.fields() } else { 1 };
        let skips = self.missing != Missing::default();
        let mut map = serializer.serialize_map(Some(fields + usize::from(skips)))?;
        match &self.sources[..] {
            [source] => source.serialize_fields(&mut map)?,
            sources => map.serialize_entry("inputs", sources)?,
        }
        if skips {
            map.serialize_entry("missing", &self.missing)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    fn queries() -> Vec<Query> {
        let numbers = Source::Numbers(
            [Number::Int(i64::MIN), Number::Float(-0.5), Number::Float(f64::INFINITY)].into_iter().collect(),
        );
        let attached = Source::Attached { attached: 3, format: Format::Text };
        let raw = Format::ALL.map(|format| Source::Attached { attached: 0, format });
        [vec![numbers.clone()], vec![attached.clone()], vec![numbers, attached], raw.to_vec(), vec![]]
            .into_iter()
            .flat_map(|sources| {
                [Missing::Error, Missing::Skip].map(|missing| Query { sources: sources.clone(), missing })
            })
            .collect()
    }

    #[test]
    fn a_query_survives_arrays_maps_and_json() {
        for query in queries() {
            let compact = rmp_serde::to_vec(&query).unwrap();
            assert_eq!(rmp_serde::from_slice::<Query>(&compact).unwrap(), query);
            let named = rmp_serde::to_vec_named(&query).unwrap();
            assert_eq!(rmp_serde::from_slice::<Query>(&named).unwrap(), query);
            let json = serde_json::to_string(&query).unwrap();
            assert_eq!(serde_json::from_str::<Query>(&json).unwrap(), query, "{json}");
        }
    }

    #[test]
    fn the_flat_form_is_the_documented_one() {
        let json = |query| serde_json::to_string(&query).unwrap();
        assert_eq!(
            json(Query::numbers(vec![Number::Int(1)])),
            r#"{"numbers":[1]}"#,
            "and what is usual is left out"
        );
        let written = serde_json::from_str::<Query>(r#"{"numbers":[1],"missing":"error"}"#).unwrap();
        assert_eq!(written, Query::numbers(vec![Number::Int(1)]));
        let attached = Source::Attached { attached: 0, format: Format::Text };
        let query = Query { sources: vec![attached], missing: Missing::Skip };
        assert_eq!(json(query.clone()), r#"{"attached":0,"format":"text","missing":"skip"}"#);
        assert_eq!(serde_json::from_str::<Query>(r#"{"attached":0,"missing":"skip"}"#).unwrap(), query);
    }

    #[test]
    fn formats_have_names_and_one_that_is_unknown_is_refused_with_a_list_of_them() {
        for format in Format::ALL {
            let name = format.name();
            let attached = |name| format!(r#"{{"attached":0,"format":"{name}"}}"#);
            let query: Query = serde_json::from_str(&attached(name)).unwrap();
            assert_eq!(query.sources, [Source::Attached { attached: 0, format }]);
            let error = serde_json::from_str::<Query>(&attached("f32")).unwrap_err().to_string();
            assert!(error.contains("`f32`") && error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn a_query_with_two_inputs_or_none_is_refused() {
        for json in
            [r"{}", r#"{"numbers":[],"attached":0}"#, r#"{"inputs":[],"numbers":[]}"#, r#"{"number":[1]}"#]
        {
            assert!(serde_json::from_str::<Query>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_fault_keeps_its_places_where_structs_travel_as_arrays() {
        let fault = Fault::new(FaultKind::NotANumber, "x").at(3, 5);
        let compact = rmp_serde::to_vec(&fault).unwrap();
        assert_eq!(rmp_serde::from_slice::<Fault>(&compact).unwrap(), fault);
    }
}

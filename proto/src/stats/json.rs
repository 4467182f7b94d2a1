//! The service's methods in JSON: their names, and what their parameters and results look like.
//!
//! Numbers are read from the list as it is written, by the grammar of all numbers: a JSON decoder would make `-0` a
//! float and an integer beyond 64 bits a float without a word of it, and would take `1e400` for an error of syntax.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use serde::Deserializer;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Query, StatsRequest, StatsResponse, WireQuery, WireSource};
use crate::fault::{Fault, FaultKind};
use crate::number::{Token, TokenError, parse_token};
use crate::numbers::Numbers;
use crate::text::shown;
use crate::wire::json::{JsonError, Methods, Params, members};

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
    /// The way round it is named as it is written here.
    fn from(mut fault: Fault) -> Self {
        if fault.kind == FaultKind::MissingValue {
            fault.message = fault.message.replace("missing=skip", "\"missing\":\"skip\"");
        }
        JsonError::from(&fault)
    }
}

const SOURCE: [&str; 3] = ["numbers", "attached", "format"];
/// What is told of parameters that will do.
const QUERY: &str = r#"{"numbers":[1,2,3]} or {"attached":0,"format":"text"}"#;

fn query(params: Params<'_>) -> Result<Query, JsonError> {
    let names = [SOURCE[0], SOURCE[1], SOURCE[2], "inputs", "missing"];
    let [numbers, attached, format, inputs, missing] = params.members(names, QUERY)?;
    let wrong = "\"missing\" must be \"error\" or \"skip\"";
    let missing = missing.map(|word| self::word(word, wrong)).transpose()?.unwrap_or_default();
    let WireSource { numbers, attached, format } = source(0, [numbers, attached, format])?;
    let inputs = inputs.map(self::inputs).transpose()?;
    let query = WireQuery { numbers, attached, format, inputs, missing };
    query.try_into().map_err(|reason| JsonError::invalid_params(format!("{reason}, as {QUERY}")))
}

fn inputs(list: &RawValue) -> Result<Vec<WireSource>, JsonError> {
    let list: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| {
        JsonError::invalid_params("\"inputs\" must be a list, as [{\"numbers\":[1,2]},{\"attached\":0}]")
    })?;
    (0..)
        .zip(list)
        .map(|(index, part)| source(index, members(Some(part), SOURCE, &[], "each of \"inputs\"", QUERY)?))
        .collect()
}

fn source(index: u32, [numbers, attached, format]: [Option<&RawValue>; 3]) -> Result<WireSource, JsonError> {
    let wrong = "\"format\" must be \"text\", \"f64\", \"i64\" or \"npy\"";
    Ok(WireSource {
        numbers: numbers.map(|list| self::numbers(list, index)).transpose()?,
        attached: attached.map(attachment).transpose()?,
        format: format.map(|word| self::word(word, wrong)).transpose()?,
    })
}

/// One of some words.
fn word<T: DeserializeOwned>(written: &RawValue, wrong: &str) -> Result<T, JsonError> {
    let word = written.get().starts_with('"').then(|| serde_json::from_str(written.get()).ok());
    word.flatten().ok_or_else(|| JsonError::invalid_params(wrong))
}

fn attachment(number: &RawValue) -> Result<u32, JsonError> {
    let wrong =
        |_| JsonError::invalid_params("\"attached\" must be the number of an attachment, the first is 0");
    number.get().parse().map_err(wrong)
}

fn released(params: Params<'_>) -> Result<u32, JsonError> {
    let example = r#"{"attached":0}"#;
    let [attached] = params.members(["attached"], example)?;
    let missing =
        || JsonError::invalid_params(format!("\"attached\" is missing in \"params\", as in {example}"));
    attachment(attached.ok_or_else(missing)?)
}

fn numbers(list: &RawValue, source: u32) -> Result<Numbers, JsonError> {
    let read = serde_json::Deserializer::from_str(list.get()).deserialize_seq(List);
    let read = read.map_err(|_| JsonError::invalid_params("\"numbers\" must be a list, as [1,2,3]"))?;
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::number::Number;
    use crate::stats::{Mean, Source};

    fn of(method: &str, params: &str, positional: bool) -> Result<StatsRequest, Value> {
        let json = (!params.is_empty()).then(|| serde_json::from_str(params).unwrap());
        request(method, Params { json, positional }).map_err(|error| serde_json::to_value(error).unwrap())
    }

    fn numbers(list: &str) -> Result<Numbers, Value> {
        match of("mean", &format!("{{\"numbers\":{list}}}"), false)? {
            StatsRequest::Mean { query } => match &query.sources[..] {
                [Source::Numbers(numbers)] => Ok(numbers.clone()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_in_a_list_are_exact() {
        let list = r#"[-9223372036854775808, 9223372036854775807, -0, "-0", 0.1, 1.7976931348623157e308, -0.0,
            5e-324, 0.30000000000000004, 9007199254740993, "17", "+.5"]"#;
        let read = numbers(list).unwrap();
        let [min, max, zero, text, rest @ ..] = &read[..] else { panic!() };
        let ints = [i64::MIN, i64::MAX, 0, 0].map(Number::Int);
        assert_eq!([*min, *max, *zero, *text], ints);
        let [tenth, largest, minus, least, sum, odd, string, half] = rest else { panic!("{rest:?}") };
        let floats = [0.1, f64::MAX, -0.0, 5e-324, 0.300_000_000_000_000_04];
        for (number, float) in [tenth, largest, minus, least, sum].into_iter().zip(floats) {
            assert!(matches!(number, Number::Float(read) if read.to_bits() == float.to_bits()), "{number:?}");
        }
        let exact = [9_007_199_254_740_993, 17].map(Number::Int);
        assert_eq!([*odd, *string, *half], [exact[0], exact[1], Number::Float(0.5)]);
        assert_eq!(read.huge(), None);
        for (list, at) in
            [("[1, 9223372036854775808]", 1), ("[-9223372036854775809]", 0), ("[18446744073709551616]", 0)]
        {
            assert_eq!(numbers(list).unwrap().huge(), Some(at), "{list}");
        }
        let special = numbers(r#"["Infinity", "-inf", "NaN", null, "NA", ""]"#).unwrap();
        assert_eq!(special[..2], [f64::INFINITY, f64::NEG_INFINITY].map(Number::Float));
        assert!(special[2..].iter().all(|number| number.to_f64().is_nan()));
    }

    #[test]
    fn what_is_no_number_is_a_fault_that_names_its_position() {
        for (list, kind, column) in [
            ("[1, 1e400, 3]", "out_of_range", 2),
            ("[1, 2, -1e400]", "out_of_range", 3),
            (r#"["1 2"]"#, "not_a_number", 1),
            (r#"["\ud800"]"#, "not_a_number", 1),
            ("[[1], 2]", "not_a_number", 1),
            ("[true]", "not_a_number", 1),
            (r#"[1, {"a": []}, 1e400]"#, "not_a_number", 2),
        ] {
            let error = numbers(list).unwrap_err();
            let data = &error["data"];
            assert_eq!(
                (&error["code"], &data["kind"], &data["column"]),
                (&json!(-32000), &json!(kind), &json!(column)),
                "{list}"
            );
            assert_eq!(data["message"], error["message"]);
        }
        let inputs = r#"{"inputs":[{"attached":0},{"numbers":[1,"x"]}]}"#;
        let error = of("mode", inputs, false).unwrap_err();
        assert_eq!((&error["data"]["source_index"], &error["data"]["column"]), (&json!(1), &json!(2)));
    }

    #[test]
    fn the_way_round_a_missing_value_is_named_as_json_has_it() {
        let named = |kind| {
            let fault = Fault::new(kind, "a value is missing here; missing=skip leaves such values out");
            let error = serde_json::to_value(JsonError::from(fault)).unwrap();
            assert_eq!(error["message"], error["data"]["message"]);
            error["message"].as_str().unwrap().to_owned()
        };
        let said = r#"a value is missing here; "missing":"skip" leaves such values out"#;
        assert_eq!(named(FaultKind::MissingValue), said);
        assert!(named(FaultKind::NotANumber).contains("missing=skip"), "it may be the token");
    }

    #[test]
    fn the_decoder_keeps_numbers_as_numbers() {
        // With its feature `arbitrary_precision`, which any crate may turn on for all, they would be maps to serde.
        assert!(serde_json::from_str::<Value>("1e400").is_err());
    }

    #[test]
    fn methods_have_the_names_that_languages_give_them() {
        for name in ["mean", "Stats.mean", "Stats.Mean"] {
            assert!(matches!(of(name, r#"{"numbers":[1]}"#, false), Ok(StatsRequest::Mean { .. })), "{name}");
        }
        assert!(matches!(
            of("Stats.Release", r#"{"attached":3}"#, true),
            Ok(StatsRequest::Release { attached: 3 })
        ));
        for params in ["", "{}", "[]", "[1,2]"] {
            assert!(matches!(of("ping", params, false), Ok(StatsRequest::Ping {})), "{params}");
        }
        for name in ["Mean", "stats.mean", "Stats.Stats.mean", "MEAN", "", "mean "] {
            assert_eq!(of(name, "{}", false).unwrap_err()["code"], -32601, "{name}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_repeated_at_length() {
        let long = "é".repeat(100_000);
        for params in [format!(r#"{{"{long}":1}}"#), format!(r#"{{"numbers":[1],"missing":"{long}"}}"#)] {
            let refused = of("mean", &params, false).unwrap_err();
            assert_eq!(refused["code"], -32602);
            assert!(refused.to_string().len() < 1024, "{refused}");
        }
    }

    #[test]
    fn lists_in_the_place_of_objects_are_refused_and_what_is_to_be_sent_is_shown() {
        let object =
            r#""params" must be an object, as {"numbers":[1,2,3]} or {"attached":0,"format":"text"}"#;
        let one_of = "name the input by exactly one of numbers, attached (with format) and inputs, as ";
        let number = r#""attached" must be the number of an attachment, the first is 0"#;
        for (method, params, positional, said) in [
            ("mean", "", false, object),
            ("mean", "[1,2,3]", false, object),
            ("mean", "[1,2]", true, object),
            ("mean", "[[1,2],null,null,null]", false, object),
            ("mean", "\"x\"", true, object),
            ("mean", "7", false, object),
            ("mean", "{}", false, one_of),
            ("mean", r#"{"numbers":[1],"attached":0}"#, false, one_of),
            (
                "mean",
                r#"{"number":[1]}"#,
                false,
                r#""params" has no member "number", but "numbers", "attached""#,
            ),
            ("mean", r#"{"numbers":[1],"numbers":[2]}"#, false, r#""params" has "numbers" twice"#),
            ("mean", r#"{"numbers":"1"}"#, false, r#""numbers" must be a list, as [1,2,3]"#),
            ("mean", r#"{"numbers":{"0":1}}"#, false, r#""numbers" must be a list, as [1,2,3]"#),
            ("mean", r#"{"attached":"0"}"#, false, number),
            ("mean", r#"{"attached":-1}"#, false, number),
            ("mean", r#"{"attached":0.0}"#, false, number),
            (
                "mean",
                r#"{"attached":0,"format":"csv"}"#,
                false,
                r#""format" must be "text", "f64", "i64" or "npy""#,
            ),
            (
                "mean",
                r#"{"attached":0,"format":{"f64":null}}"#,
                false,
                r#""format" must be "text", "f64", "i64" or "npy""#,
            ),
            ("mean", r#"{"numbers":[1],"missing":"maybe"}"#, false, r#""missing" must be "error" or "skip""#),
            (
                "mean",
                r#"{"numbers":[1],"missing":["skip"]}"#,
                false,
                r#""missing" must be "error" or "skip""#,
            ),
            (
                "mean",
                r#"{"inputs":{"numbers":[1]}}"#,
                false,
                r#""inputs" must be a list, as [{"numbers":[1,2]},"#,
            ),
            (
                "mean",
                r#"{"inputs":[[[1,2],null,null]]}"#,
                false,
                r#"each of "inputs" must be an object, as {"#,
            ),
            (
                "mean",
                r#"{"inputs":[{"numbers":[1],"missing":"skip"}]}"#,
                false,
                r#"each of "inputs" has no member "#,
            ),
            (
                "mean",
                r#"{"numbers":[1],"deadline_ms":5}"#,
                false,
                r#""deadline_ms" must stand beside "params""#,
            ),
            ("release", "[3]", false, r#""params" must be an object, as {"attached":0}"#),
            ("release", "3", true, r#""params" must be an object, as {"attached":0}"#),
            ("release", "{}", false, r#""attached" is missing in "params", as in {"attached":0}"#),
            ("release", r#"{"attached":true}"#, false, number),
        ] {
            let refused = of(method, params, positional).unwrap_err();
            let told = refused["message"].as_str().unwrap();
            assert!(refused["code"] == -32602 && told.starts_with(said), "{params}: {refused}");
        }
    }

    #[test]
    fn parameters_that_would_be_overlooked_are_refused() {
        for params in [
            "",
            "[]",
            "{}",
            r#"{"numbers":[1],"attached":0}"#,
            r#"{"number":[1]}"#,
            r#"{"numbers":"1"}"#,
            r#"{"numbers":[1],"missing":"maybe"}"#,
            r#"{"numbers":[1],"deadline_ms":5}"#,
            r#"{"numbers":[1],"trace_id":null}"#,
            r#"{"attached":-1}"#,
            r#"{"attached":0,"format":"csv"}"#,
        ] {
            let refused = of("mean", params, false).err().map(|error| error["code"].clone());
            // A null is as good as nothing.
            let expected = (!params.contains("null")).then_some(json!(-32602));
            assert_eq!(refused, expected, "{params}");
        }
        assert!(
            of("mean", r#"{"numbers":[1],"deadline_ms":5,"trace_id":"x"}"#, true).is_ok(),
            "as Go sends them"
        );
    }

    #[test]
    fn floats_in_results_are_marked_and_what_is_not_finite_is_a_string() {
        let said = |value: f64| {
            let mean = Mean { value: value.into(), count: 1, missing: 0, warnings: Vec::new() };
            let mut out = Vec::new();
            reply(StatsResponse::Mean(Ok(mean)), &mut out).unwrap();
            let said = String::from_utf8(out).unwrap();
            said.split([':', ',']).nth(1).unwrap().to_owned()
        };
        assert_eq!([2.0, 0.1, 1e300].map(said), ["2.0", "0.1", "1e+300"]);
        assert_eq!([f64::NAN, f64::INFINITY, -f64::INFINITY].map(said), ["\"nan\"", "\"inf\"", "\"-inf\""]);
        let mut out = Vec::new();
        reply(StatsResponse::Release(Ok(())), &mut out).unwrap();
        assert_eq!(out, b"true", "null would end Go's connection");
    }
}

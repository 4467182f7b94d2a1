//! Numbers and the grammar of a token: the one place that says what a number is.
//!
//! `[+-]?((d+(.d*)?|.d+)([eE][+-]?d+)?|inf|infinity|nan)`, words in any case; no `_`, no hex. Without point and
//! exponent it is an integer. `nan`, `NA`, `null` and nothing at all are *missing*.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One number: an exact 64-bit integer or an `f64`.
///
/// On the wire it is the format's own integer or float; JSON, which has neither NaN nor infinity, carries those
/// as strings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer, exact.
    Int(i64),
    /// A float, finite or not.
    Float(f64),
}

/// What a well-formed token stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token {
    /// A number.
    Number(Number),
    /// An integer beyond `i64`, as its nearest `f64`: it makes the whole sequence float, with one warning.
    HugeInt(f64),
    /// No value: `nan`, `NA`, `null` or an empty field.
    Missing,
}

/// Why a token stands for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The bytes do not follow the grammar.
    #[error("not a number")]
    NotANumber,
    /// Digits that are finite but lie beyond the largest `f64`.
    #[error("beyond the range of a 64-bit float")]
    OutOfRange,
}

/// Reads one token, without white space or commas around it.
///
/// # Errors
/// [`TokenError`] says which rule it breaks.
pub fn parse_token(token: &[u8]) -> Result<Token, TokenError> {
    let (negative, body) = match token {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, token),
    };
    let signed = body.len() != token.len();
    let Some(shape) = shape(body) else {
        return word(body, negative, signed);
    };
    let text = std::str::from_utf8(token).map_err(|_| TokenError::NotANumber)?;
    if shape == Shape::Integer
        && let Ok(int) = text.parse::<i64>()
    {
        return Ok(Token::Number(Number::Int(int)));
    }
    let float: f64 = text.parse().map_err(|_| TokenError::NotANumber)?;
    match (float.is_finite(), shape) {
        (false, _) => Err(TokenError::OutOfRange),
        (true, Shape::Integer) => Ok(Token::HugeInt(float)),
        (true, Shape::Decimal) => Ok(Token::Number(Number::Float(float))),
    }
}

fn word(body: &[u8], negative: bool, signed: bool) -> Result<Token, TokenError> {
    let is = |word: &str| body.eq_ignore_ascii_case(word.as_bytes());
    if is("inf") || is("infinity") {
        let sign = if negative { -1.0 } else { 1.0 };
        return Ok(Token::Number(Number::Float(sign * f64::INFINITY)));
    }
    if is("nan") || (!signed && (body.is_empty() || is("na") || is("null"))) {
        return Ok(Token::Missing);
    }
    Err(TokenError::NotANumber)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Integer,
    Decimal,
}

/// The shape of an unsigned decimal, or `None` if it is none.
fn shape(body: &[u8]) -> Option<Shape> {
    let digits = |from: usize| body[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(0);
    let mut at = whole;
    if at == body.len() {
        return (whole > 0).then_some(Shape::Integer);
    }
    if body[at] == b'.' {
        let fraction = digits(at + 1);
        if whole + fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    } else if whole == 0 {
        return None;
    }
    if at < body.len() && matches!(body[at], b'e' | b'E') {
        at += 1;
        at += usize::from(at < body.len() && matches!(body[at], b'+' | b'-'));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    (at == body.len()).then_some(Shape::Decimal)
}

impl Number {
    /// The nearest `f64` (ties to even).
    pub fn to_f64(self) -> f64 {
        match self {
            Number::Int(int) => int as f64,
            Number::Float(float) => float,
        }
    }
}

/// Shortest text that reads back as the same number; an exponent outside 1e-5…1e16; −0 is shown as 0.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Number::Int(int) => int.fmt(f),
            Number::Float(0.0) => f.write_str("0"),
            Number::Float(float) if float.is_nan() => f.write_str("nan"),
            Number::Float(float) if float.is_finite() && !(1e-5..1e16).contains(&float.abs()) => {
                write!(f, "{float:e}")
            }
            Number::Float(float) => write!(f, "{float}"),
        }
    }
}

/// What is missing is NaN.
impl From<Token> for Number {
    fn from(token: Token) -> Self {
        match token {
            Token::Number(number) => number,
            Token::HugeInt(float) => Number::Float(float),
            Token::Missing => Number::Float(f64::NAN),
        }
    }
}

impl From<i64> for Number {
    fn from(int: i64) -> Self {
        Number::Int(int)
    }
}

impl From<f64> for Number {
    fn from(float: f64) -> Self {
        Number::Float(float)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Number::Int(int) => serializer.serialize_i64(int),
            Number::Float(float) if serializer.is_human_readable() && !float.is_finite() => {
                serializer.collect_str(self)
            }
            Number::Float(float) => serializer.serialize_f64(float),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Token::deserialize(deserializer).map(Number::from)
    }
}

/// As a [`Number`], which does not tell what was a huge integer. (JSON's integers beyond `u64` are floats here too:
/// that is what its decoder gives.)
impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenVisitor)
    }
}

struct TokenVisitor;

impl de::Visitor<'_> for TokenVisitor {
    type Value = Token;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, null, or a number as a string")
    }

    fn visit_i64<E: de::Error>(self, int: i64) -> Result<Token, E> {
        Ok(Token::Number(Number::Int(int)))
    }

    fn visit_u64<E: de::Error>(self, int: u64) -> Result<Token, E> {
        let exact = |int| Token::Number(Number::Int(int));
        Ok(i64::try_from(int).map_or(Token::HugeInt(int as f64), exact))
    }

    fn visit_f64<E: de::Error>(self, float: f64) -> Result<Token, E> {
        Ok(Token::Number(Number::Float(float)))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Token, E> {
        Ok(Token::Missing)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Token, E> {
        parse_token(text.as_bytes())
            .map_err(|error| E::custom(format_args!("{:?} is {error}", excerpt(text))))
    }
}

/// At most 64 bytes of a token, for an error message; the `Debug` form of it is escaped.
fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(token: &str) -> Number {
        match parse_token(token.as_bytes()) {
            Ok(Token::Number(number)) => number,
            other => panic!("{token:?} is {other:?}"),
        }
    }

    #[test]
    fn integers_stay_exact() {
        for (token, int) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("007", 7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("000000000000000000000000000042", 42),
        ] {
            assert_eq!(number(token), Number::Int(int), "{token}");
        }
        for (token, float) in [("9223372036854775808", 9_223_372_036_854_775_808.0), ("-1e0", -1.0)] {
            match parse_token(token.as_bytes()).unwrap() {
                Token::HugeInt(got) | Token::Number(Number::Float(got)) => {
                    assert_eq!(got.to_bits(), f64::to_bits(float), "{token}");
                }
                other => panic!("{token} is {other:?}"),
            }
        }
        assert_eq!(parse_token(b"-9223372036854775809"), Ok(Token::HugeInt(-9_223_372_036_854_775_808.0)));
    }

    #[test]
    fn a_point_or_an_exponent_makes_a_float() {
        for (token, float) in [
            ("1.", 1.0),
            (".5", 0.5),
            ("-.5e1", -5.0),
            ("1E+2", 100.0),
            ("1e-400", 0.0),
            ("0e99999999999999999999", 0.0),
            ("1.7976931348623157e308", f64::MAX),
            ("4.9e-324", 5e-324),
            ("INF", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+inf", f64::INFINITY),
        ] {
            assert_eq!(number(token), Number::Float(float), "{token}");
        }
    }

    #[test]
    fn what_is_missing_is_no_number_and_no_error() {
        for token in ["nan", "NaN", "-nan", "+NAN", "NA", "na", "null", "NULL", ""] {
            assert_eq!(parse_token(token.as_bytes()), Ok(Token::Missing), "{token:?}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_name_is_refused() {
        for token in [
            "+",
            "-",
            ".",
            "-.",
            "e5",
            "1e",
            "1e+",
            ".e1",
            "1.2.3",
            "1_000",
            "0x10",
            "1e5.0",
            "--1",
            "+-1",
            "1-",
            "infin",
            "infinityy",
            "in",
            "nana",
            "+NA",
            "-null",
            "nil",
            "1f",
            "1 ",
            " 1",
            "1,0",
            "\u{661}",
            "½",
        ] {
            assert_eq!(parse_token(token.as_bytes()), Err(TokenError::NotANumber), "{token:?}");
        }
        for bytes in [&b"\0"[..], b"\xff", b"1\0", b"1\xff"] {
            assert_eq!(parse_token(bytes), Err(TokenError::NotANumber), "{bytes:?}");
        }
    }

    #[test]
    fn a_finite_token_beyond_the_largest_float_is_out_of_range() {
        for token in ["1e400", "-1.8e308", &"9".repeat(400), "1e99999999999999999999"] {
            assert_eq!(parse_token(token.as_bytes()), Err(TokenError::OutOfRange), "{token}");
        }
    }

    #[test]
    fn numbers_show_shortest_and_read_back_as_themselves() {
        for (float, text) in [
            (0.1, "0.1"),
            (2.0, "2"),
            (-0.0, "0"),
            (1e16, "1e16"),
            (9_999_999_999_999_998.0, "9999999999999998"),
            (1e-5, "0.00001"),
            (9.9e-6, "9.9e-6"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e308"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(Number::Float(float).to_string(), text);
        }
        let mut bits = 1_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let float = f64::from_bits(bits);
            if float.is_finite() {
                let text = Number::Float(float).to_string();
                assert_eq!(number(&text).to_f64().to_bits(), float.to_bits(), "{text}");
            }
        }
    }

    #[test]
    fn json_carries_what_it_cannot_write_as_strings() {
        let json = |number: Number| serde_json::to_string(&number).unwrap();
        assert_eq!(json(Number::Float(f64::NEG_INFINITY)), r#""-inf""#);
        assert_eq!(json(Number::Float(2.0)), "2.0");
        assert_eq!(json(Number::Int(2)), "2");
        let read = |text: &str| serde_json::from_str::<Number>(text);
        assert_eq!(read(r#""-inf""#).unwrap(), Number::Float(f64::NEG_INFINITY));
        assert!(read(r#""nan""#).unwrap().to_f64().is_nan());
        assert!(read("null").unwrap().to_f64().is_nan());
        assert_eq!(read("18446744073709551615").unwrap(), Number::Float(18_446_744_073_709_551_615.0));
        assert!(read(r#""abc""#).is_err());
    }
}

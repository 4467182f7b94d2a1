//! An object's members by their names, as they are written.
//!
//! A decoder that is derived for a struct takes a list of its members in their order, too: whoever sends one means
//! something else. And where it refuses one, it names types of this program, which say nothing to its client.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;

use super::reply::JsonError;

/// What clients that can say it nowhere else say in the parameters.
pub(super) const OPTIONS: [&str; 2] = ["deadline_ms", "trace_id"];
/// What is told of a name that nobody knows, in characters.
const NAME_SHOWN: usize = 64;

/// What an object has of the members that are looked for.
#[derive(Debug)]
pub(super) struct Object<'a, const N: usize> {
    /// In the order of the names.
    pub(super) members: [Option<&'a RawValue>; N],
    /// One that it has twice.
    pub(super) twice: Option<&'static str>,
    /// The first that has another name and is not null.
    pub(super) other: Option<Cow<'a, str>>,
}

/// Reads an object's members of these names; those of the names that are passed over may be there, too.
///
/// # Errors
/// It is no JSON, or no object.
pub(super) fn read<'a, const N: usize>(
    text: &'a str,
    names: [&'static str; N],
    passed: &[&str],
) -> serde_json::Result<Object<'a, N>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let object = deserializer.deserialize_map(Names { names, passed })?;
    deserializer.end()?;
    Ok(object)
}

/// The members of these names; a null is as good as none, and those of the names that are passed over may be there, too.
///
/// # Errors
/// It is no object, has a member twice, or has others. `what` it is, as a client knows it; `example` is one.
pub fn members<'a, const N: usize>(
    json: Option<&'a RawValue>,
    names: [&'static str; N],
    passed: &[&str],
    what: &str,
    example: &str,
) -> Result<[Option<&'a RawValue>; N], JsonError> {
    let read = |json: &'a RawValue| read(json.get(), names, passed).ok();
    let Some(Object { members, twice, other }) = json.and_then(read) else {
        return Err(JsonError::invalid_params(format!("{what} must be an object, as {example}")));
    };
    if let Some(name) = twice {
        return Err(JsonError::invalid_params(format!("{what} has {name:?} twice")));
    }
    if let Some(name) = other {
        if OPTIONS.contains(&&*name) {
            return Err(JsonError::invalid_params(format!("{name:?} must stand beside \"params\"")));
        }
        let name: String = name.chars().take(NAME_SHOWN).collect();
        let known = names.map(|name| format!("{name:?}")).join(", ");
        return Err(JsonError::invalid_params(format!("{what} has no member {name:?}, but {known}")));
    }
    Ok(members.map(|member| member.filter(|json| !is_null(json))))
}

pub(super) fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

struct Names<'p, const N: usize> {
    names: [&'static str; N],
    passed: &'p [&'p str],
}

impl<'a, const N: usize> Visitor<'a> for Names<'_, N> {
    type Value = Object<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object { members: [None; N], twice: None, other: None };
        while let Some((Name(name), member)) = map.next_entry::<Name<'a>, &RawValue>()? {
            match self.names.iter().position(|known| *known == name) {
                Some(at) if object.members[at].is_some() => object.twice = Some(self.names[at]),
                Some(at) => object.members[at] = Some(member),
                None if is_null(member) || self.passed.contains(&&*name) => {}
                None => object.other = object.other.or(Some(name)),
            }
        }
        Ok(object)
    }
}

/// Borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Option<&str>, Option<&'static str>, Option<String>) {
        let object = read(text, ["a", "b"], &["passed"]).unwrap();
        let [a, _] = object.members;
        (a.map(RawValue::get), object.twice, object.other.map(Cow::into_owned))
    }

    #[test]
    fn members_are_found_by_what_their_names_mean_and_kept_as_they_are_written() {
        assert_eq!(found(r#"{"b":0,"a": [1e400] }"#), (Some("[1e400]"), None, None));
        assert_eq!(found(r#"{"\u0061":null}"#), (Some("null"), None, None));
        assert_eq!(found(r#"{"a":1,"\u0061":2}"#), (Some("1"), Some("a"), None));
        assert_eq!(found(r#"{"passed":1,"A":1,"c":2}"#), (None, None, Some("A".into())));
        assert_eq!(found(r#"{"c":null}"#), (None, None, None), "nobody means anything by it");
    }

    #[test]
    fn a_list_is_no_object_and_neither_is_what_goes_on_after_one() {
        for text in [
            "[1,2]",
            "[]",
            "null",
            "7",
            "{} 7",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            r#"{"\ud800":1}"#,
        ] {
            assert!(read(text, ["a", "b"], &[]).is_err(), "{text}");
        }
    }
}

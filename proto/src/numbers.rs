//! The numbers of a request itself.

use std::fmt;
use std::ops::Deref;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::number::{Number, Token};

/// Numbers to allocate for at once, whatever a message says how many there are.
const FIRST: usize = 4096;

/// A list of numbers that remembers whether an integer had to become a float.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Numbers {
    values: Vec<Number>,
    #[serde(skip)]
    huge: Option<usize>,
}

impl Numbers {
    /// The index of the first integer that was read and is beyond `i64`; in the list it is its nearest `f64`.
    pub fn huge(&self) -> Option<usize> {
        self.huge
    }

    /// Appends what a token stands for; NaN where it is missing.
    pub(crate) fn push(&mut self, token: Token) {
        if matches!(token, Token::HugeInt(_)) {
            self.huge = self.huge.or(Some(self.values.len()));
        }
        self.values.push(token.into());
    }
}

impl From<Vec<Number>> for Numbers {
    fn from(values: Vec<Number>) -> Self {
        Numbers { values, huge: None }
    }
}

impl FromIterator<Number> for Numbers {
    fn from_iter<I: IntoIterator<Item = Number>>(numbers: I) -> Self {
        Vec::from_iter(numbers).into()
    }
}

impl Deref for Numbers {
    type Target = [Number];

    fn deref(&self) -> &[Number] {
        &self.values
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(List)
    }
}

struct List;

impl<'de> Visitor<'de> for List {
    type Value = Numbers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Numbers, A::Error> {
        let values = Vec::with_capacity(list.size_hint().unwrap_or(0).min(FIRST));
        let mut numbers = Numbers { values, huge: None };
        while let Some(token) = list.next_element()? {
            numbers.push(token);
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_remembers_the_first_integer_beyond_64_bits() {
        for (json, huge) in [
            ("[1, 9223372036854775807, 1e300]", None),
            ("[1, 9223372036854775808, 18446744073709551615]", Some(1)),
            (r#"[1, 2, "-9223372036854775809"]"#, Some(2)),
        ] {
            assert_eq!(serde_json::from_str::<Numbers>(json).unwrap().huge(), huge, "{json}");
        }
        let packed = rmp_serde::to_vec(&[1, u64::MAX]).unwrap();
        let numbers: Numbers = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!((numbers.huge(), numbers[1]), (Some(1), Number::Float(u64::MAX as f64)));
    }
}

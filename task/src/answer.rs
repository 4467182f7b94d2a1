//! Answers as text and as JSON.
//!
//! Text: `mean    2`, or with `--only` the bare value; a mode stands on a line of its own then, and there is no
//! line where there is no mode. JSON: one document a line, `{"count":8,"missing":0,"mean":4.25,…}`, where
//! `--only` leaves the other two members out. What the reader ought to know beside that goes to standard error.

use std::fmt::Write as _;

use serde::Serialize;
use task_proto::number::Number;
use task_proto::stats::{Mean, Median, Mode};

use crate::exit::Place;
use crate::wording;

/// Modes that text lists.
const MODES_SHOWN: usize = 10;

/// What a run answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// All three, of the same numbers.
    All(Mean, Median, Mode),
    /// The mean alone.
    Mean(Mean),
    /// The median alone.
    Median(Median),
    /// The mode alone.
    Mode(Mode),
}

impl Answer {
    /// As text, each line ended.
    pub fn text(&self) -> String {
        match self {
            Answer::All(mean, median, mode) => {
                format!("mean    {}\nmedian  {}\nmode    {}\n", mean.value, median.value, described(mode))
            }
            Answer::Mean(mean) => format!("{}\n", mean.value),
            Answer::Median(median) => format!("{}\n", median.value),
            Answer::Mode(mode) => mode.values.iter().fold(String::new(), |mut lines, value| {
                // Writing to a String cannot fail.
                let _ = writeln!(lines, "{value}");
                lines
            }),
        }
    }

    /// As one line of JSON, ended.
    pub fn json(&self) -> serde_json::Result<String> {
        let (count, missing, _) = self.about();
        let (mean, median, mode) = match self {
            Answer::All(mean, median, mode) => (Some(mean), Some(median), Some(mode)),
            Answer::Mean(mean) => (Some(mean), None, None),
            Answer::Median(median) => (None, Some(median), None),
            Answer::Mode(mode) => (None, None, Some(mode)),
        };
        let document = Document {
            count,
            missing,
            mean: mean.map(|mean| unsigned_zero(mean.value)),
            median: median.map(|Median { value, low, high, .. }| MedianMember {
                value: unsigned_zero(*value),
                low: unsigned_zero(*low),
                high: unsigned_zero(*high),
            }),
            mode: mode.map(|Mode { values, frequency, total, .. }| ModeMember {
                values: values.iter().copied().map(unsigned_zero).collect(),
                frequency: *frequency,
                total: *total,
            }),
        };
        serde_json::to_string(&document).map(|line| line + "\n")
    }

    /// The reply to a call of one method as one line of JSON, ended; all three are as [`Answer::json`] has them.
    pub fn reply(&self) -> serde_json::Result<String> {
        let line = match self {
            Answer::All(..) => return self.json(),
            Answer::Mean(mean) => {
                serde_json::to_string(&Mean { value: unsigned_zero(mean.value), ..mean.clone() })
            }
            Answer::Median(median) => serde_json::to_string(&Median {
                value: unsigned_zero(median.value),
                low: unsigned_zero(median.low),
                high: unsigned_zero(median.high),
                ..median.clone()
            }),
            Answer::Mode(mode) => serde_json::to_string(&Mode {
                values: mode.values.iter().copied().map(unsigned_zero).collect(),
                ..mode.clone()
            }),
        };
        Ok(line? + "\n")
    }

    /// What the reader ought to know beside the answer: warnings of the service on inputs of these names (`huge`: where
    /// integers beyond 64 bits were typed), values left out, modes not listed.
    pub fn notes(&self, names: &[String], huge: &[(usize, Place)]) -> Vec<String> {
        let (_, missing, warnings) = self.about();
        let mut notes: Vec<_> =
            warnings.iter().map(|warning| wording::warning(warning, names, huge)).collect();
        match missing {
            0 => {}
            1 => notes.push("1 missing value skipped".into()),
            _ => notes.push(format!("{missing} missing values skipped")),
        }
        if let Answer::Mode(mode) = self
            && mode.total > mode.values.len() as u64
        {
            notes.push(format!("modes not listed: {}", mode.total - mode.values.len() as u64));
        }
        notes
    }

    fn about(&self) -> (u64, u64, &[String]) {
        match self {
            Answer::All(Mean { count, missing, warnings, .. }, ..)
            | Answer::Mean(Mean { count, missing, warnings, .. })
            | Answer::Median(Median { count, missing, warnings, .. })
            | Answer::Mode(Mode { count, missing, warnings, .. }) => (*count, *missing, warnings),
        }
    }
}

/// `1, 5 (2 of 8 each)`, `7 (3 of 8)`, `none (every value occurs once)`.
fn described(mode: &Mode) -> String {
    let Mode { values, frequency, total, count, .. } = mode;
    if *total == 0 {
        return match frequency {
            1 => "none (every value occurs once)".into(),
            2 => "none (every value occurs twice)".into(),
            _ => format!("none (every value occurs {frequency} times)"),
        };
    }
    let shown = &values[..values.len().min(MODES_SHOWN)];
    let mut text = shown.iter().map(Number::to_string).collect::<Vec<_>>().join(", ");
    let rest = total.saturating_sub(shown.len() as u64);
    if rest > 0 {
        // Writing to a String cannot fail.
        let _ = match values.len() {
            all if all as u64 == *total => write!(text, ", … {rest} more (--json)"),
            listed => write!(text, ", … {rest} more (--json has the first {listed})"),
        };
    }
    let each = if *total == 1 { "" } else { " each" };
    text + &format!(" ({frequency} of {count}{each})")
}

/// −0 is shown as 0; text does so by itself.
fn unsigned_zero(number: Number) -> Number {
    const ZERO: Number = Number::Float(0.0);
    if number == ZERO { ZERO } else { number }
}

#[derive(Serialize)]
struct Document {
    count: u64,
    missing: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    median: Option<MedianMember>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<ModeMember>,
}

#[derive(Serialize)]
struct MedianMember {
    value: Number,
    low: Number,
    high: Number,
}

#[derive(Serialize)]
struct ModeMember {
    values: Vec<Number>,
    frequency: u64,
    total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(value: impl Into<Number>) -> Mean {
        Mean { value: value.into(), count: 8, missing: 0, warnings: Vec::new() }
    }

    fn median(value: impl Into<Number>, low: impl Into<Number>, high: impl Into<Number>) -> Median {
        let (value, low, high) = (value.into(), low.into(), high.into());
        Median { value, low, high, count: 8, missing: 0, warnings: Vec::new() }
    }

    fn mode(values: impl IntoIterator<Item = i64>, frequency: u64, total: u64) -> Mode {
        let values = values.into_iter().map(Number::Int).collect();
        Mode { values, frequency, total, count: 8, missing: 0, warnings: Vec::new() }
    }

    fn sample() -> Answer {
        Answer::All(mean(4.25), median(3.5, 3, 4), mode([1, 5], 2, 2))
    }

    #[test]
    fn the_sample_reads_as_in_the_manual() {
        assert_eq!(sample().text(), "mean    4.25\nmedian  3.5\nmode    1, 5 (2 of 8 each)\n");
        assert_eq!(
            sample().json().unwrap(),
            concat!(
                r#"{"count":8,"missing":0,"mean":4.25,"median":{"value":3.5,"low":3,"high":4},"#,
                r#""mode":{"values":[1,5],"frequency":2,"total":2}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_mode_says_how_often_it_occurs_or_why_there_is_none() {
        assert_eq!(described(&mode([7], 3, 1)), "7 (3 of 8)");
        assert_eq!(described(&mode([], 1, 0)), "none (every value occurs once)");
        assert_eq!(described(&mode([], 2, 0)), "none (every value occurs twice)");
        assert_eq!(described(&mode([], 4, 0)), "none (every value occurs 4 times)");
    }

    #[test]
    fn text_lists_ten_modes_and_counts_the_rest() {
        assert_eq!(described(&mode(1..=10, 2, 10)), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 (2 of 8 each)");
        assert_eq!(
            described(&mode(1..=1000, 2, 1000)),
            "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … 990 more (--json) (2 of 8 each)"
        );
        assert!(described(&mode(1..=1000, 2, 5000)).contains("… 4990 more (--json has the first 1000) (2"));
    }

    #[test]
    fn only_prints_bare_values() {
        assert_eq!(Answer::Mean(mean(2.0)).text(), "2\n");
        assert_eq!(Answer::Median(median(1e300, 1e300, 1e300)).text(), "1e300\n");
        assert_eq!(Answer::Mode(mode([1, 5], 2, 2)).text(), "1\n5\n");
        assert_eq!(Answer::Mode(mode([], 1, 0)).text(), "");
    }

    #[test]
    fn only_in_json_leaves_the_other_members_out() {
        let json = |answer: Answer| answer.json().unwrap();
        assert_eq!(json(Answer::Mean(mean(2.0))), "{\"count\":8,\"missing\":0,\"mean\":2.0}\n");
        assert_eq!(
            json(Answer::Median(median(3, 3, 3))),
            "{\"count\":8,\"missing\":0,\"median\":{\"value\":3,\"low\":3,\"high\":3}}\n"
        );
        assert_eq!(
            json(Answer::Mode(mode([], 1, 0))),
            "{\"count\":8,\"missing\":0,\"mode\":{\"values\":[],\"frequency\":1,\"total\":0}}\n"
        );
    }

    #[test]
    fn floats_are_marked_in_json_and_plain_in_text() {
        for (value, text, json) in [
            (2.0, "2", "2.0"),
            (-0.0, "0", "0.0"),
            (0.1, "0.1", "0.1"),
            (1e300, "1e300", "1e+300"),
            (-5e-324, "-5e-324", "-5e-324"),
            (123_456.5, "123456.5", "123456.5"),
            (f64::INFINITY, "inf", "\"inf\""),
            (f64::NEG_INFINITY, "-inf", "\"-inf\""),
            (f64::NAN, "nan", "\"nan\""),
        ] {
            let answer = Answer::Mean(mean(value));
            assert_eq!(answer.text().trim_end(), text);
            let line = answer.json().unwrap();
            assert_eq!(line.trim_end(), format!("{{\"count\":8,\"missing\":0,\"mean\":{json}}}"));
            serde_json::from_str::<serde_json::Value>(&line).expect("every answer is valid JSON");
        }
    }

    #[test]
    fn notes_tell_of_warnings_skipped_values_and_modes_that_are_not_listed() {
        assert!(sample().notes(&[], &[]).is_empty());
        let one = Mean { missing: 1, warnings: vec!["taken as floats".into()], ..mean(1) };
        assert_eq!(Answer::Mean(one).notes(&[], &[]), ["taken as floats", "1 missing value skipped"]);
        let two = Mean { missing: 2, ..mean(1) };
        assert_eq!(Answer::Mean(two).notes(&[], &[]), ["2 missing values skipped"]);
        assert_eq!(Answer::Mode(mode(1..=1000, 1, 1001)).notes(&[], &[]), ["modes not listed: 1"]);
    }
}

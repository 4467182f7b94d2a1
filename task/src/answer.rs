//! Answers as text and as JSON.
//!
//! Text: `mean    2`, or with `--only` the bare value; a mode stands on a line of its own then, and there is no
//! line where there is no mode. JSON: one document a line, `{"count":8,"missing":0,"mean":4.25,…}`, where
//! `--only` leaves the other two members out. What the reader ought to know beside that goes to standard error.

use std::fmt::Write as _;

use serde::Serialize;
use task_proto::number::Number;
use task_proto::stats::{Mean, Median, Mode};

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

    /// What the reader ought to know beside the answer: warnings of the service, values left out, modes not listed.
    pub fn notes(&self) -> Vec<String> {
        let (_, missing, warnings) = self.about();
        let mut notes = warnings.to_vec();
        match missing {
            0 => {}
            1 => notes.push("1 missing value skipped".into()),
            _ => notes.push(format!("{missing} missing values skipped")),
        }
        if let Answer::Mode(mode) = self
            && mode.total > mode.values.len() as u64
        {
            notes.push(format!("{} more modes are not listed", mode.total - mode.values.len() as u64));
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
        let _ = write!(text, ", … {rest} more (--json)");
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

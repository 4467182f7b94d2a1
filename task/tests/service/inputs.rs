//! Inputs of every kind, each with what its answers must be.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source, StatsRequest};

use crate::moments::Moments;
use crate::oracle::{Expected, Sequence, Statistic, UNITS};

/// Regular files and sealed memfds that every client attaches, half of each.
const ATTACHED: usize = 12;
/// Queries on numbers in the request itself, and on these beside an attachment.
const INLINE: usize = 24;
/// Numbers in one of the files, to keep a worker busy for milliseconds.
const MANY: usize = 100_000;

/// Of so many that are drawn, one spoilt input is asked for.
const SPOILT: usize = 50;

/// A query and what its answers must be.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) query: Query,
    pub(crate) expected: Expected,
}

/// What clients ask: their queries name the attachments by their place here.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) attachments: Vec<Arc<OwnedFd>>,
    inputs: Vec<Input>,
}

impl Pool {
    /// Files are made in `directory`.
    pub(crate) fn new(directory: &Path, moments: &mut Moments) -> Self {
        let mut attachments = Vec::new();
        let mut inputs = Vec::new();
        for number in 0..ATTACHED {
            let (sequence, text, expected) = match number {
                0 | 1 => {
                    let (text, expected) = spoilt(moments);
                    (None, text, expected)
                }
                _ => {
                    let length = if number == 2 { MANY } else { 1 + moments.below(3000) };
                    let mut sequence = draw(length, moments);
                    let text = text(&mut sequence, moments);
                    let expected = sequence.expected();
                    (Some(sequence), text, expected)
                }
            };
            attachments.push(Arc::new(if number % 2 == 0 {
                regular(&directory.join(format!("input-{number}.txt")), &text)
            } else {
                sealed(&text)
            }));
            let source = Source::Attached { attached: number as u32, format: Format::Text };
            let missing = Missing::Skip;
            // Numbers in the request before those of the attachment: one sequence.
            if let Some(sequence) = sequence.filter(|sequence| sequence.units == 1 && number != 2) {
                let mut both = draw_integers(1 + moments.below(20), moments);
                let sources = vec![Source::Numbers(numbers(&both).into_iter().collect()), source.clone()];
                both.multiples.extend(&sequence.multiples);
                both.missing = sequence.missing;
                let expected = both.expected();
                inputs.push(Input { query: Query { sources, missing }, expected });
            }
            inputs.push(Input { query: Query { sources: vec![source], missing }, expected });
        }
        inputs.extend((0..INLINE).map(|_| inline(moments)));
        Pool { attachments, inputs }
    }

    /// The number of any input; of a spoilt one rarely, since the log tells of each call that fails.
    pub(crate) fn draw(&self, moments: &mut Moments) -> usize {
        loop {
            let number = moments.below(self.inputs.len());
            if moments.below(SPOILT) == 0 || matches!(self.inputs[number].expected, Expected::Answers(_)) {
                return number;
            }
        }
    }

    /// The input of this number.
    pub(crate) fn input(&self, number: usize) -> &Input {
        &self.inputs[number]
    }
}

/// A query on numbers in the request itself.
pub(crate) fn inline(moments: &mut Moments) -> Input {
    let sequence = draw(1 + moments.below(60), moments);
    Input { query: Query::numbers(numbers(&sequence)), expected: sequence.expected() }
}

/// Text for a pipe, which fits into it, and what its answers must be.
pub(crate) fn for_pipe(moments: &mut Moments) -> (String, Expected) {
    let mut sequence = draw(1 + moments.below(500), moments);
    let text = text(&mut sequence, moments);
    (text, sequence.expected())
}

/// The query that reads attachment 0.
pub(crate) fn attached() -> Query {
    let source = Source::Attached { attached: 0, format: Format::Text };
    Query { sources: vec![source], missing: Missing::Skip }
}

/// Any of the three.
pub(crate) fn statistic(moments: &mut Moments) -> Statistic {
    [Statistic::Mean, Statistic::Median, Statistic::Mode][moments.below(3)]
}

/// The request for it.
pub(crate) fn request(statistic: Statistic, query: Query) -> StatsRequest {
    match statistic {
        Statistic::Mean => StatsRequest::Mean { query },
        Statistic::Median => StatsRequest::Median { query },
        Statistic::Mode => StatsRequest::Mode { query },
    }
}

fn draw(length: usize, moments: &mut Moments) -> Sequence {
    if moments.coin() {
        return draw_integers(length, moments);
    }
    let spread = 1_i128 << (3 + moments.below(40));
    let mut multiples: Vec<_> =
        (0..length).map(|_| i128::from(moments.next()) % (2 * spread) - spread).collect();
    // At least one is no integer, so that the sequence is one of floats in every format.
    multiples[0] |= 1;
    Sequence { multiples, units: UNITS, missing: 0 }
}

fn draw_integers(length: usize, moments: &mut Moments) -> Sequence {
    let few = 1 + moments.below(50) as i64;
    let kind = moments.below(3);
    let integer = |moments: &mut Moments| match kind {
        // Few distinct ones; all that there are; close to the ends.
        0 => moments.next().cast_signed() % few,
        1 => moments.next().cast_signed(),
        _ => [i64::MIN, i64::MAX, 0, -1][moments.below(4)],
    };
    let multiples = (0..length).map(|_| i128::from(integer(moments))).collect();
    Sequence { multiples, units: 1, missing: 0 }
}

fn numbers(sequence: &Sequence) -> Vec<Number> {
    let number = |&multiple: &i128| {
        if sequence.units == 1 {
            Number::Int(multiple as i64)
        } else {
            Number::Float(multiple as f64 / UNITS as f64)
        }
    };
    sequence.multiples.iter().map(number).collect()
}

/// The sequence as text, between white space and commas, with a few missing values.
fn text(sequence: &mut Sequence, moments: &mut Moments) -> String {
    let mut text = String::new();
    for number in numbers(sequence) {
        if moments.below(50) == 0 {
            text += "NA ";
            sequence.missing += 1;
        }
        let between = [" ", "\n", ",", "\r\n", "\t "][moments.below(5)];
        let _ = match number {
            Number::Int(value) => write!(text, "{value}{between}"),
            Number::Float(value) => write!(text, "{value:?}{between}"),
        };
    }
    // A comma at the end would be followed by an empty field.
    text += "0";
    sequence.multiples.push(0);
    text
}

/// Text with one token that is no number.
fn spoilt(moments: &mut Moments) -> (String, Expected) {
    let mut text = String::new();
    let (before, line_length) = (moments.below(2000), 1 + moments.below(9));
    for number in 0..before {
        text += if number % line_length == line_length - 1 { "12\n" } else { "12 " };
    }
    let line = text.matches('\n').count() as u64 + 1;
    let column = (text.len() - text.rfind('\n').map_or(0, |end| end + 1)) as u64 + 1;
    text += "twelve 13\n";
    (text, Expected::Fault { line, column })
}

fn regular(path: &Path, text: &str) -> OwnedFd {
    std::fs::write(path, text).unwrap();
    File::open(path).unwrap().into()
}

/// A memfd that nobody can change, and so may be mapped.
fn sealed(text: &str) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create("input", flags).unwrap());
    memory.write_all(text.as_bytes()).and_then(|()| memory.rewind()).unwrap();
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
    memory.into()
}

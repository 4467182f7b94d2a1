//! What a row of the table has to tell.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::moments::quantile;
use crate::tally::{Fate, Tally};

/// Of what a program said and the like, in bytes.
const SHOWN: usize = 1500;

/// How much is asked of the rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// All that the table demands; otherwise a few minutes' worth, in which times are shown and demand nothing.
    pub(crate) long: bool,
    /// How many faults, if not as many as the scale says.
    pub(crate) count: Option<usize>,
    pub(crate) seed: u64,
}

impl Scale {
    pub(crate) fn count(&self, short: usize, long: usize) -> usize {
        self.count.unwrap_or(if self.long { long } else { short })
    }
}

/// What came of a row. It gathers what was seen, and every demand that was not met.
#[derive(Debug)]
pub(crate) struct Report {
    scale: Scale,
    counts: Vec<(&'static str, u64)>,
    times: Vec<(&'static str, Vec<Duration>)>,
    notes: Vec<String>,
    /// What became of calls, word by word: of interest where something is broken.
    reasons: Vec<String>,
    broken: Vec<String>,
}

impl Report {
    pub(crate) fn new(scale: Scale) -> Self {
        let (counts, times) = (Vec::new(), Vec::new());
        let (notes, reasons, broken) = (Vec::new(), Vec::new(), Vec::new());
        Report { scale, counts, times, notes, reasons, broken }
    }

    pub(crate) fn count(&mut self, what: &'static str, count: u64) {
        self.counts.push((what, count));
    }

    /// Counts what must not be.
    pub(crate) fn none(&mut self, what: &'static str, count: u64) {
        self.count(what, count);
        self.demand(count == 0, || format!("{count} {what}"));
    }

    /// What became of the calls: none may be wrong, refused or failed.
    pub(crate) fn calls(&mut self, tally: &Tally) {
        self.count("answers checked", tally.of(Fate::Right));
        self.none("wrong", tally.of(Fate::Wrong));
        self.none("failed", tally.failed());
        self.none("refused", tally.sum(&[Fate::Refused, Fate::Missing]));
        self.demand(tally.of(Fate::Right) > 0, || "no call was answered".to_owned());
        self.reasons(tally);
    }

    /// Keeps what was said of calls that were not answered.
    pub(crate) fn reasons(&mut self, tally: &Tally) {
        self.reasons.extend(tally.reasons().map(|reason| cut(reason)));
    }

    pub(crate) fn times(&mut self, what: &'static str, mut times: Vec<Duration>) {
        times.sort_unstable();
        if !times.is_empty() {
            self.times.push((what, times));
        }
    }

    pub(crate) fn note(&mut self, note: impl Display) {
        self.notes.push(cut(&note.to_string()));
    }

    pub(crate) fn demand(&mut self, met: bool, otherwise: impl FnOnce() -> String) {
        if !met {
            self.broken.push(cut(&otherwise()));
        }
    }

    /// A demand on times, which only the long run makes.
    pub(crate) fn demand_time(&mut self, met: bool, otherwise: impl FnOnce() -> String) {
        if self.scale.long {
            self.demand(met, otherwise);
        } else if !met {
            self.note(format_args!("in a long run this would not do: {}", otherwise()));
        }
    }

    pub(crate) fn is_met(&self) -> bool {
        self.broken.is_empty()
    }

    fn counts(&self) -> String {
        let counts = self.counts.iter().map(|(what, count)| format!("{count} {what}"));
        counts.collect::<Vec<_>>().join(", ")
    }

    fn spreads(&self, between: &str) -> String {
        let spreads = self.times.iter().map(|(what, times)| {
            let [half, most, all] = [0.5, 0.99, 1.0].map(|part| ms(quantile(times, part)));
            format!("{what}: {half} / {most} / {all} ms")
        });
        spreads.collect::<Vec<_>>().join(between)
    }

    /// The whole of it, for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("  seed {}: {}\n", self.scale.seed, self.counts());
        for line in self.spreads("\n").lines() {
            let _ = writeln!(text, "  {line} (p50 / p99 / max)");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        for broken in &self.broken {
            let _ = writeln!(text, "  NOT MET: {broken}");
        }
        for reason in self.reasons.iter().filter(|_| !self.is_met()) {
            let _ = writeln!(text, "  {reason}");
        }
        text
    }

    /// Its cells in a table of Markdown, after the first.
    pub(crate) fn cells(&self) -> String {
        let verdict = if self.is_met() { "met" } else { "**not met**" };
        format!("{} | {} | {verdict}", self.counts(), self.spreads("; "))
    }
}

/// No more of it than tells what happened.
fn cut(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let [start, end] = [text.floor_char_boundary(SHOWN / 2), text.ceil_char_boundary(text.len() - SHOWN / 2)];
    format!("{} […] {}", &text[..start], &text[end..])
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

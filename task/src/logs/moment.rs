//! Points in time as people name them for `--since` and `--until`: what journalctl and docker take, but for Unix time.

use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Zoned};

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

/// The word names no point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a time: use 10m, 2h or 1d (ago), today, yesterday, 09:14, 2026-11-21, \"2026-11-21 09:14:02\" \
     or 2026-11-21T09:14:02Z"
)]
pub struct NoMoment;

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(word: &str) -> Result<Self, NoMoment> {
        Moment::at(word, &Timestamp::now().to_zoned(TimeZone::system()))
    }
}

impl Moment {
    /// What the word names at this time and place.
    fn at(word: &str, now: &Zoned) -> Result<Self, NoMoment> {
        let word = word.trim();
        if let Ok(moment) = word.parse::<Timestamp>() {
            return Ok(Moment(moment));
        }
        let local = match word.to_ascii_lowercase().as_str() {
            "now" => return Ok(Moment(now.timestamp())),
            "today" => Some(now.date().to_datetime(Time::midnight())),
            "yesterday" => now.date().checked_sub(1.day()).ok().map(|day| day.to_datetime(Time::midnight())),
            _ => local(word, now.date()),
        };
        let zoned = match local {
            Some(local) => local.to_zoned(now.time_zone().clone()),
            // Ago, whatever its sign says, but for one that says otherwise.
            None if !word.starts_with('+') => {
                let span: Span = word.parse().map_err(|_| NoMoment)?;
                now.checked_sub(span.abs())
            }
            None => return Err(NoMoment),
        };
        zoned.map(|zoned| Moment(zoned.timestamp())).map_err(|_| NoMoment)
    }
}

/// A date, a time of today, or both.
fn local(word: &str, today: Date) -> Option<DateTime> {
    let time = || word.parse::<Time>().ok().filter(|_| word.contains(':'));
    word.parse::<DateTime>().ok().or_else(|| Some(today.to_datetime(time()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the word names at half past nine on the day after the clocks went back in Berlin.
    fn named(word: &str) -> Option<String> {
        // As a rule, because a test machine may have no time zones.
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now = jiff::civil::date(2026, 10, 26).at(9, 30, 0, 0).to_zoned(berlin).unwrap();
        Some(Moment::at(word, &now).ok()?.0.to_string())
    }

    #[test]
    fn times_are_taken_as_journalctl_and_docker_take_them() {
        for (word, time) in [
            ("2026-11-21T09:14:02Z", "2026-11-21T09:14:02Z"),
            ("2026-11-21T09:14:02.102314Z", "2026-11-21T09:14:02.102314Z"),
            ("2026-11-21T09:14:02+01:00", "2026-11-21T08:14:02Z"),
            ("2026-11-21 09:14:02Z", "2026-11-21T09:14:02Z"),
            ("2026-10-26", "2026-10-25T23:00:00Z"),
            ("2026-10-26 09:14", "2026-10-26T08:14:00Z"),
            ("2026-10-26 09:14:02.101", "2026-10-26T08:14:02.101Z"),
            ("2026-10-26T09:14:02", "2026-10-26T08:14:02Z"),
            ("09:14", "2026-10-26T08:14:00Z"),
            ("09:14:02", "2026-10-26T08:14:02Z"),
            ("now", "2026-10-26T08:30:00Z"),
            ("today", "2026-10-25T23:00:00Z"),
            ("Yesterday", "2026-10-24T22:00:00Z"), // a day of 25 hours
            ("10m", "2026-10-26T08:20:00Z"),
            ("-10m", "2026-10-26T08:20:00Z"),
            (" -10m", "2026-10-26T08:20:00Z"),
            ("10m ago", "2026-10-26T08:20:00Z"),
            ("5 minutes ago", "2026-10-26T08:25:00Z"),
            ("5min", "2026-10-26T08:25:00Z"),
            ("1h30m", "2026-10-26T07:00:00Z"),
            ("1h 30min", "2026-10-26T07:00:00Z"),
            ("1.5h", "2026-10-26T07:00:00Z"),
            ("2h", "2026-10-26T06:30:00Z"),
            ("90s", "2026-10-26T08:28:30Z"),
            ("1d", "2026-10-25T08:30:00Z"),
            ("2d", "2026-10-24T07:30:00Z"),
            ("1w", "2026-10-19T07:30:00Z"),
        ] {
            assert_eq!(named(word).as_deref(), Some(time), "{word}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for word in
            ["", "x", "10", "1761466442", "+10m", "25:00", "2026-13-01", "10 bananas", "9", "99999y", "--"]
        {
            assert_eq!(named(word), None, "{word}");
        }
    }
}

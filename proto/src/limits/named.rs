//! The limits by their names: as flags set them, and as `status` shows them.

use std::fmt;
use std::time::Duration;

use super::{CALL_ROOM, JSON_ERROR, Limits, SLOTS};
use crate::amount::{duration, size};

/// A frame's length must begin with a zero byte, by which it is told from a line of JSON.
const LARGEST_FRAME: usize = (1 << 24) - 1;
/// With many clients on few processors a worker's heartbeat, and what calls show of theirs, may be late by a second.
const SHORTEST_HEALTH: Duration = Duration::from_secs(3);

/// A limit by its name, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The name of its field in [`Limits`].
    pub name: &'static str,
    /// What it limits, in a few words.
    pub what: &'static str,
    /// How much that is.
    pub amount: Amount,
}

/// How much a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Number(usize),
    /// So many bytes.
    Bytes(u64),
    /// So long.
    Time(Duration),
    /// Anything.
    Unlimited,
}

impl Limits {
    /// These limits but for those that `settings` set: each is `NAME=VALUE` with the name of a field and an amount as
    /// [`size`] and [`duration`] read it, `none` where that is an amount.
    ///
    /// # Errors
    /// Which setting is wrong, and why; or which limits do not go together.
    pub fn with<T: AsRef<str>>(mut self, settings: &[T]) -> Result<Self, String> {
        for setting in settings.iter().map(AsRef::as_ref) {
            let Some((name, value)) = setting.split_once('=') else {
                return Err(format!("{setting:?}: it must be NAME=VALUE"));
            };
            let Some((_, _, field)) = FIELDS.iter().find(|(known, ..)| *known == name) else {
                let names = FIELDS.map(|(name, ..)| name).join(", ");
                return Err(format!("{name:?}: there is none of that name, but {names}"));
            };
            field(&mut self).set(value.trim()).map_err(|why| format!("{name}={value}: {why}"))?;
        }
        self.checked()
    }

    /// Each limit, in the order in which people look for them.
    pub fn named(&self) -> impl Iterator<Item = Limit> {
        let mut limits = self.clone();
        FIELDS.into_iter().map(move |(name, what, field)| Limit {
            name,
            what,
            amount: field(&mut limits).get(),
        })
    }

    /// The same as lines of a help text.
    pub fn help(&self) -> String {
        let line = |Limit { name, what, amount }| format!("\n  {name:<12} {amount:<7} {what}");
        self.named().map(line).collect()
    }

    fn checked(self) -> Result<Self, String> {
        let Limits { frame, held, connections, in_flight, health, .. } = self;
        // Requests and replies as large as those that a call has room for must fit, with their envelopes.
        if !(CALL_ROOM / 2..=LARGEST_FRAME).contains(&frame) {
            return Err(format!("frame={frame}: it must be at least 128K and less than 16M"));
        }
        // One line has the replies of a batch: at least that there is no room for any of them.
        let errors = in_flight.saturating_mul(JSON_ERROR);
        if frame < errors {
            return Err(format!("frame={frame}: with in_flight={in_flight} it must be at least {errors}"));
        }
        if held < frame {
            return Err(format!("held={held}: it must be at least frame, which is {frame}"));
        }
        if connections.saturating_mul(in_flight) > SLOTS {
            return Err(format!(
                "connections={connections} and in_flight={in_flight}: no more than {SLOTS} calls can be watched over, the product of the two: lower one of them"
            ));
        }
        if health < SHORTEST_HEALTH {
            return Err(format!("health: it must be at least {} s", SHORTEST_HEALTH.as_secs()));
        }
        Ok(self)
    }
}

/// A field of [`Limits`], to be read or set.
enum Field<'a> {
    Number(&'a mut usize),
    Size(&'a mut usize),
    Memory(&'a mut Option<u64>),
    Time(&'a mut Duration),
    Wait(&'a mut Option<Duration>),
}

type Named = (&'static str, &'static str, fn(&mut Limits) -> Field<'_>);

const FIELDS: [Named; 12] = [
    ("connections", "at once, half of them of one process", |limits| Field::Number(&mut limits.connections)),
    ("in_flight", "calls at once on each connection", |limits| Field::Number(&mut limits.in_flight)),
    ("attachments", "alive at once on each connection", |limits| Field::Number(&mut limits.attachments)),
    ("frame", "a message, each way", |limits| Field::Size(&mut limits.frame)),
    ("held", "requests of a connection that wait", |limits| Field::Size(&mut limits.held)),
    ("memory", "for all numbers; none: half of what there is", |limits| Field::Memory(&mut limits.memory)),
    ("input_idle", "from one byte of a call's input to the next", |limits| {
        Field::Wait(&mut limits.input_idle)
    }),
    ("frame_time", "from a message's first byte to its last", |limits| Field::Time(&mut limits.frame_time)),
    ("unread", "for a client to take of its replies", |limits| Field::Time(&mut limits.unread)),
    ("start", "under task serve: for a worker to start", |limits| Field::Time(&mut limits.start)),
    ("drain", "at a stop, for the calls in flight", |limits| Field::Time(&mut limits.drain)),
    ("health", "under task serve: without a sign of life", |limits| Field::Time(&mut limits.health)),
];

impl Field<'_> {
    fn set(self, value: &str) -> Result<(), String> {
        match self {
            Field::Number(field) => match value.parse() {
                Ok(0) | Err(_) => return Err("it must be a number from 1 up".into()),
                Ok(number) => *field = number,
            },
            Field::Size(field) => *field = usize::try_from(size(value)?).unwrap_or(usize::MAX),
            Field::Memory(field) => *field = Some(size(value)?),
            Field::Time(field) => *field = duration(value)?,
            Field::Wait(field) => *field = if value == "none" { None } else { Some(duration(value)?) },
        }
        Ok(())
    }

    fn get(self) -> Amount {
        match self {
            Field::Number(field) => Amount::Number(*field),
            Field::Size(field) => Amount::Bytes(*field as u64),
            Field::Memory(field) => field.map_or(Amount::Unlimited, Amount::Bytes),
            Field::Time(field) => Amount::Time(*field),
            Field::Wait(field) => field.map_or(Amount::Unlimited, Amount::Time),
        }
    }
}

impl fmt::Display for Amount {
    /// Short: `64`, `1 MiB`, `11.7 GiB`, `5 s`, `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match self {
            Amount::Number(number) => number.to_string(),
            Amount::Bytes(bytes) => {
                let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
                let power = (bytes.max(&1).ilog2() / 10).min(4);
                let amount = *bytes as f64 / 1024_f64.powi(power as i32);
                format!("{} {}", (amount * 10.0).round() / 10.0, units[power as usize])
            }
            Amount::Time(time) => format!("{} s", time.as_secs_f64()),
            Amount::Unlimited => "none".to_owned(),
        };
        f.pad(&shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_set_and_shown_by_its_name() {
        let settings = [
            "connections=3",
            "in_flight=4",
            "attachments=5",
            "frame=512K",
            "held=2M",
            "memory=1.5G",
            "input_idle=none",
            "frame_time=1500ms",
            "unread=6",
            "start=1m",
            "drain=7s",
            "health=8s",
        ];
        let limits = Limits::default().with(&settings).unwrap();
        let shown: Vec<_> = limits.named().map(|limit| format!("{}={}", limit.name, limit.amount)).collect();
        let expected = [
            "connections=3",
            "in_flight=4",
            "attachments=5",
            "frame=512 KiB",
            "held=2 MiB",
            "memory=1.5 GiB",
            "input_idle=none",
            "frame_time=1.5 s",
            "unread=6 s",
            "start=60 s",
            "drain=7 s",
            "health=8 s",
        ];
        assert_eq!(shown, expected);
        // No field is without a name: as many travel as are shown.
        let fields = serde_json::to_value(&limits).unwrap();
        assert_eq!(fields.as_object().unwrap().len(), expected.len());
    }

    #[test]
    fn a_setting_that_cannot_be_kept_says_which_and_why() {
        for (settings, why) in [
            (vec!["connections"], "\"connections\": it must be NAME=VALUE"),
            (
                vec!["connexions=3"],
                "\"connexions\": there is none of that name, but connections, in_flight, ",
            ),
            (vec!["connections=0"], "connections=0: it must be a number from 1 up"),
            (vec!["attachments=-1"], "attachments=-1: it must be a number from 1 up"),
            (vec!["attachments="], "attachments=: it must be a number from 1 up"),
            (vec!["memory=0"], "memory=0: it must be at least one byte"),
            (vec!["unread=none"], "unread=none: it must begin with a number"),
            (vec!["input_idle=0"], "input_idle=0: it must be longer than nothing"),
            (vec!["frame=127K"], "frame=130048: it must be at least 128K"),
            (vec!["frame=16M", "held=32M"], "frame=16777216: it must be at least 128K and less than 16M"),
            (
                vec!["frame=128K", "in_flight=257", "connections=8"],
                "frame=131072: with in_flight=257 it must be",
            ),
            (vec!["held=512K"], "held=524288: it must be at least frame, which is 1048576"),
            (vec!["in_flight=129"], "connections=64 and in_flight=129: no more than 8192 calls"),
            (vec!["connections=99999999999999999999"], "connections=99999999999999999999: it must"),
            (vec!["health=2999ms"], "health: it must be at least 3 s"),
        ] {
            let error = Limits::default().with(&settings).unwrap_err();
            assert!(error.starts_with(why), "{settings:?}: {error}");
        }
        // What goes together is judged when all are set.
        assert!(Limits::default().with(&["in_flight=1000", "connections=8"]).is_ok());
    }
}

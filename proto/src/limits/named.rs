//! The limits by their names: as flags set them, and as `status` shows them.

use std::ffi::OsString;
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

/// The variable that sets limits.
const VARIABLE: &str = "TASK_LIMIT";
/// The option that does.
const OPTION: &str = "--limit";

impl Limits {
    /// These limits but for those that `TASK_LIMIT` sets and those that `--limit` does, given as often as there are
    /// some, which beat the variable's of the same names. Both are `NAME=VALUE`, or several with commas between them: the
    /// name of a field, and an amount as [`size`] and [`duration`] read it, `none` where that is an amount.
    ///
    /// # Errors
    /// Where it was said what is wrong, what that is, and why; or which limits do not go together.
    pub fn with(mut self, variable: Option<OsString>, options: &[String]) -> Result<Self, String> {
        // A variable that is set to nothing is not set.
        let variable = variable.filter(|set| !set.is_empty()).map(|set| set.to_string_lossy().into_owned());
        for (place, settings) in
            variable.iter().map(|set| (VARIABLE, set)).chain(options.iter().map(|set| (OPTION, set)))
        {
            for setting in settings.split(',') {
                self.set(setting).map_err(|why| format!("{place} {why}"))?;
            }
        }
        let places = match (&variable, options) {
            (None, _) => OPTION.to_owned(),
            (Some(_), []) => VARIABLE.to_owned(),
            (Some(_), _) => format!("{VARIABLE} and {OPTION}"),
        };
        self.checked().map_err(|why| format!("{places} {why}"))
    }

    fn set(&mut self, setting: &str) -> Result<(), String> {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(format!("{setting:?}: it must be NAME=VALUE"));
        };
        let Some(Named { field, .. }) = FIELDS.iter().find(|known| known.name == name.trim()) else {
            let names = FIELDS.map(|field| field.name).join(", ");
            return Err(format!("{name:?}: there is none of that name, but {names}"));
        };
        field(self).set(value.trim()).map_err(|why| format!("{name}={value}: {why}"))
    }

    /// Each limit, in the order in which people look for them.
    pub fn named(&self) -> impl Iterator<Item = Limit> {
        let mut limits = self.clone();
        FIELDS
            .into_iter()
            .map(move |Named { name, field, .. }| Limit { name, amount: field(&mut limits).get() })
    }

    /// A table of them for a help text, in lines of at most 73 characters, with what their names and amounts may be.
    pub fn help(&self) -> String {
        let row = |name: &str, default: &str, range: &str, what: &str| {
            format!("  {name:<11}  {default:<7}  {range:<11}  {what}\n")
        };
        let mut table = row("NAME", "DEFAULT", "FROM - TO", "WHAT");
        for (Limit { name, amount }, Named { range, what, .. }) in self.named().zip(FIELDS) {
            table += &row(name, &amount.to_string(), range, what);
        }
        format!(
            "{table}
  connections times in_flight is at most {SLOTS}; frame is at least
  {JSON_ERROR} bytes times in_flight. Amounts are 512K, 1.5M, 1G; 500ms, 5s,
  1m; or none: of input_idle no limit, of memory half of what there is."
        )
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

/// A field and what people are told of it.
#[derive(Clone, Copy)]
struct Named {
    name: &'static str,
    /// From the least amount to the largest, where there are such.
    range: &'static str,
    what: &'static str,
    field: fn(&mut Limits) -> Field<'_>,
}

const fn named(
    name: &'static str,
    range: &'static str,
    what: &'static str,
    field: fn(&mut Limits) -> Field<'_>,
) -> Named {
    Named { name, range, what, field }
}

const FIELDS: [Named; 12] = [
    named("connections", "1 - 8192", "at once, half of them of one process", |limits| {
        Field::Number(&mut limits.connections)
    }),
    named("in_flight", "1 - 8192", "calls at once on each connection", |limits| {
        Field::Number(&mut limits.in_flight)
    }),
    named("attachments", "1", "alive at once on each connection", |limits| {
        Field::Number(&mut limits.attachments)
    }),
    named("frame", "128K - <16M", "a message, each way", |limits| Field::Size(&mut limits.frame)),
    named("held", "frame", "requests of a connection that wait", |limits| Field::Size(&mut limits.held)),
    named("memory", "1 byte", "for the numbers of all calls", |limits| Field::Memory(&mut limits.memory)),
    named("input_idle", "> 0", "between two bytes of a call's input", |limits| {
        Field::Wait(&mut limits.input_idle)
    }),
    named("frame_time", "> 0", "for a message, first byte to last", |limits| {
        Field::Time(&mut limits.frame_time)
    }),
    named("unread", "> 0", "for a client to take of its replies", |limits| Field::Time(&mut limits.unread)),
    named("start", "> 0", "for a worker of task serve to start", |limits| Field::Time(&mut limits.start)),
    named("drain", "> 0", "at a stop, for the calls in flight", |limits| Field::Time(&mut limits.drain)),
    named("health", "3 s", "for such a worker to show life", |limits| Field::Time(&mut limits.health)),
];

impl Field<'_> {
    fn set(self, value: &str) -> Result<(), String> {
        match self {
            Field::Number(field) => match value.parse() {
                Ok(0) | Err(_) => return Err("it must be a number from 1 up".into()),
                Ok(number) => *field = number,
            },
            Field::Size(field) => *field = usize::try_from(size(value)?).unwrap_or(usize::MAX),
            Field::Memory(field) => *field = if value == "none" { None } else { Some(size(value)?) },
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

    fn with(options: &[&str]) -> Result<Limits, String> {
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        Limits::default().with(None, &options)
    }

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
        let limits = with(&settings).unwrap();
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
            let error = with(&settings).unwrap_err();
            assert!(error.starts_with(&format!("--limit {why}")), "{settings:?}: {error}");
        }
        // What goes together is judged when all are set.
        assert!(with(&["in_flight=1000", "connections=8"]).is_ok());
        assert!(with(&["in_flight=1000,connections=8"]).is_ok());
    }

    #[test]
    fn an_option_beats_the_variable_name_by_name_and_an_error_says_whose_it_is() {
        let with = |variable: &str, options: &[&str]| {
            let options: Vec<_> = options.iter().map(ToString::to_string).collect();
            Limits::default().with(Some(variable.into()), &options)
        };
        let set = with("in_flight=1000,drain=7s,connections=2", &["drain=8s", "connections=8"]).unwrap();
        assert_eq!((set.in_flight, set.drain, set.connections), (1000, Duration::from_secs(8), 8));
        assert_eq!(with("", &[]).unwrap(), Limits::default());
        assert_eq!(with("memory=1G", &["memory=none"]).unwrap().memory, None);
        for (variable, options, why) in [
            ("drain=0", &["drain=1s"][..], "TASK_LIMIT drain=0: "),
            ("drain=1s,", &[], "TASK_LIMIT \"\": it must be NAME=VALUE"),
            ("drain=1s", &["drain=0"], "--limit drain=0: "),
            ("frame=1K", &[], "TASK_LIMIT frame=1024: "),
            (
                "in_flight=1000",
                &["connections=9"],
                "TASK_LIMIT and --limit connections=9 and in_flight=1000: ",
            ),
        ] {
            let error = with(variable, options).unwrap_err();
            assert!(error.starts_with(why), "{variable} {options:?}: {error}");
        }
    }

    #[test]
    fn what_is_shown_of_a_limit_is_taken_back() {
        for settings in [&["memory=10,input_idle=none"][..], &["memory=1.5G,drain=1500ms"], &[]] {
            let limits = with(settings).unwrap();
            let shown: Vec<_> =
                limits.named().map(|limit| format!("{}={}", limit.name, limit.amount)).collect();
            assert_eq!(Limits::default().with(None, &shown), Ok(limits), "{shown:?}");
        }
    }

    #[test]
    fn the_table_is_as_wide_as_a_manual_and_says_what_is_refused() {
        let table = Limits::default().help();
        assert!(table.lines().all(|line| line.chars().count() <= 73), "{table}");
        for Named { name, range, .. } in FIELDS {
            // The least amount is taken, and less is not.
            let least = range.split(" - ").next().unwrap();
            let (takes, refuses) = match least {
                "frame" => ("1M", "1023K"),
                "> 0" => ("1ms", "0"),
                "128K" => (least, "127K"),
                "3 s" => (least, "2999ms"),
                "1 byte" => (least, "0.9"),
                _ => (least, "0"),
            };
            assert!(with(&[&format!("{name}={takes}")]).is_ok(), "{name}={takes}");
            assert!(with(&[&format!("{name}={refuses}")]).is_err(), "{name}={refuses}");
        }
        assert!(
            with(&["connections=8192,in_flight=1"]).is_ok()
                && with(&["connections=8193,in_flight=1"]).is_err()
        );
    }
}

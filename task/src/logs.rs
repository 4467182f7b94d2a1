//! `task logs`: shows what the log has kept.

mod moment;

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::str::FromStr;

use task_host::follow::Follower;
use task_host::query::Query;
use task_host::record::{Level, Record, safe_json};
use task_host::screen::{Escaped, Style};
use task_host::store::{RUNS, SERVE, Store, StoreError};

use crate::args::Color;
use crate::exit::Failure;
use moment::Moment;

/// Shown where nobody says how many.
const LINES: usize = 100;

/// What `task logs` is asked for.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Go on showing records as they are written, until Ctrl-C
    ///
    /// Those of a service come as it says them, those of a one-shot run all at once when it ends.
    #[arg(short, long, conflicts_with = "until")]
    follow: bool,
    /// Show the last N records that match, or "all"; 100 unless --since is given
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<Lines>,
    /// Show only records from this time on: 10m, 2h, 1d (ago), today, 09:14, "2026-11-21 09:14"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<Moment>,
    /// Show only records up to this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<Moment>,
    /// Show this level and those above: trace, debug, info, warn or error; info, or with --trace all, unless given
    ///
    /// Ordinary calls of a service are told at debug, and only under task serve -v.
    #[arg(long, value_name = "LEVEL", ignore_case = true)]
    level: Option<Level>,
    /// Show only what this program said: task or task-rpc
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Show only this run, by the beginning of its name, which stands after the time
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Show only this call, by its trace id
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
    /// How to show them
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// How many records to show.
#[derive(Debug, Clone, Copy)]
struct Lines(usize);

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Output {
    /// As on the screen, with the date and the run
    Text,
    /// One JSON object a line, as in the log
    Json,
    /// The messages alone, as they were written; escaped on a terminal
    Raw,
}

/// Writes the records that are asked for to standard output, and what else there is to say to standard error.
pub fn run(args: &LogsArgs, color: Color) -> Result<(), Failure> {
    let stdout = io::stdout();
    let terminal = rustix::termios::isatty(&stdout);
    let store = Store::locate().map_err(unreadable)?;
    let (out, notes) = (BufWriter::new(stdout.lock()), io::stderr());
    let style = Style::new(color.on(terminal), true);
    Show { args, query: args.query(), style, terminal, out, notes }.run(&store, &stdout)
}

impl LogsArgs {
    fn query(&self) -> Query {
        // Who follows one call wants all of it.
        let otherwise = if self.trace.is_some() { Level::Trace } else { Level::Info };
        Query {
            level: self.level.unwrap_or(otherwise),
            source: self.source.clone(),
            run: self.run.clone(),
            trace: self.trace.clone(),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
        }
    }

    /// Who asks for a time wants all of it.
    fn count(&self) -> usize {
        let otherwise = if self.since.is_some() { usize::MAX } else { LINES };
        self.lines.map_or(otherwise, |lines| lines.0)
    }
}

/// What shows records.
struct Show<'a, O, N> {
    args: &'a LogsArgs,
    query: Query,
    style: Style,
    terminal: bool,
    out: O,
    notes: N,
}

impl<O: Write, N: Write> Show<'_, O, N> {
    /// Shows what there is, and then what comes for as long as somebody reads `output`.
    fn run(mut self, store: &Store, output: impl AsFd) -> Result<(), Failure> {
        // Before the first read: what comes after it is then an event.
        let follower = self.args.follow.then(|| Follower::watch(store)).transpose().map_err(unreadable)?;
        let logs = [SERVE, RUNS].map(|name| store.open(name));
        let logs = logs.into_iter().collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        let found = self.query.last(self.args.count(), &logs).map_err(unreadable)?;
        for line in &found.lines {
            let Ok(record) = Record::from_line(line) else { continue }; // it was one when it was found
            self.show(&record, line)?;
        }
        self.out.flush().map_err(unwritten)?;
        self.note_broken(found.broken);
        if found.lines.is_empty() {
            let yet = if follower.is_some() { "yet " } else { "" };
            self.note(&format!("no matching records {yet}in {}", Escaped(&store.dir().to_string_lossy())));
        }
        match follower {
            Some(mut follower) => {
                follower.go_on_from(logs);
                self.follow(&mut follower, &output)
            }
            None => Ok(()),
        }
    }

    fn follow(&mut self, follower: &mut Follower, output: &impl AsFd) -> Result<(), Failure> {
        loop {
            let news = follower.news().map_err(unreadable)?;
            for (record, line) in &news.records {
                if self.query.matches(record) {
                    self.show(record, line)?;
                }
            }
            self.out.flush().map_err(unwritten)?;
            self.note_broken(news.broken);
            if news.lost {
                self.note("records are missing: the log was rotated faster than it was read");
            }
            if news.none && !follower.wait(output).map_err(unreadable)? {
                return Err(Failure::ClosedOutput);
            }
        }
    }

    fn show(&mut self, record: &Record, line: &[u8]) -> Result<(), Failure> {
        let mut text = String::new();
        match self.args.output {
            Output::Text => self.style.write(&mut text, record),
            Output::Json => text.push_str(&safe_json(&String::from_utf8_lossy(line))),
            Output::Raw if self.terminal => text.push_str(&Escaped(&record.message).to_string()),
            Output::Raw => self.out.write_all(&record.message_bytes()).map_err(unwritten)?,
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.out.write_all(text.as_bytes()).map_err(unwritten)
    }

    fn note_broken(&mut self, broken: u64) {
        if broken > 0 {
            self.note(&format!("skipped {broken} lines of the log that are no records"));
        }
    }

    /// A note that cannot be written is no failure.
    fn note(&mut self, note: &str) {
        let _ = writeln!(self.notes, "{note}");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn unreadable(error: StoreError) -> Failure {
    Failure::Internal(error.to_string())
}

fn unwritten(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe { Failure::ClosedOutput } else { Failure::Output(error) }
}

impl FromStr for Lines {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "all" => Ok(Lines(usize::MAX)),
            _ => word.parse().map(Lines).map_err(|_| "not a number of records: use 0, 1, 2… or all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Logs {
        #[command(flatten)]
        logs: LogsArgs,
    }

    const LOG: [&str; 4] = [
        r#"{"time":"2026-11-21T09:14:02.101314Z","run":"9f3c0000","pid":1,"seq":1,"source":"task","level":"INFO","message":"spawned","fields":{"pid":2}}"#,
        r#"{"time":"2026-11-21T09:14:02.2Z","run":"9f3c0000","pid":2,"seq":2,"source":"task-rpc","stream":"stderr","level":"WARN","message":"a\\\\b\\xff\u001b[2J","escaped":true}"#,
        r#"{"time":"2026-11-21T09:14:03Z","run":"77aa0000","pid":3,"seq":1,"source":"task-rpc","level":"DEBUG","message":"answered","trace_id":"ab12","new":[1]}"#,
        r#"{"time":"2026-11-21T09:14:04Z","run":"77aa0000","pid":3,"seq":2,"source":"task","level":"ERROR","message":"exited"}"#,
    ];

    fn shows<O: Write, N: Write>(args: &LogsArgs, terminal: bool, out: O, notes: N) -> Show<'_, O, N> {
        Show { args, query: args.query(), style: Style::new(false, true), terminal, out, notes }
    }

    /// What `task logs WORDS` writes to standard output and to standard error.
    fn logs(words: &[&str], terminal: bool) -> (String, String) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path());
        store.append(RUNS, (LOG.join("\n") + "\nno record\n").as_bytes()).unwrap();
        let args = Logs::try_parse_from([&["logs"], words].concat()).unwrap().logs;
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        shows(&args, terminal, &mut out, &mut notes).run(&store, io::stdout()).unwrap();
        (String::from_utf8_lossy(&out).into_owned(), String::from_utf8(notes).unwrap())
    }

    fn shown(words: &[&str]) -> Vec<usize> {
        let (out, _) = logs(&[words, &["-o", "json"]].concat(), false);
        out.lines().map(|line| LOG.iter().position(|&known| known == line).unwrap()).collect()
    }

    #[test]
    fn records_are_chosen_by_number_level_source_run_and_call() {
        assert_eq!(shown(&["--level", "debug"]), [0, 1, 2, 3]);
        assert_eq!(shown(&["-n", "2"]), [1, 3]);
        assert!(shown(&["-n", "0"]).is_empty());
        assert_eq!(shown(&["-n", "all", "--level", "trace"]), [0, 1, 2, 3]);
        assert_eq!(shown(&["--level", "warn"]), [1, 3]);
        assert_eq!(shown(&["--source", "task-rpc"]), [1]);
        assert_eq!(shown(&["--run", "9f3c"]), [0, 1]);
        assert_eq!(shown(&["--trace", "ab12"]), [2]);
        assert_eq!(shown(&["--run", "77aa", "--level", "INFO", "-n", "1"]), [3]);
    }

    #[test]
    fn ordinary_calls_are_shown_to_whoever_asks_for_them() {
        assert_eq!(shown(&[]), [0, 1, 3]);
        assert_eq!(shown(&["--trace", "ab12"]), [2]);
        assert!(shown(&["--trace", "ab12", "--level", "info"]).is_empty());
    }

    #[test]
    fn what_was_skipped_and_what_was_not_found_is_said() {
        assert_eq!(logs(&["-n", "all"], false).1, "skipped 1 lines of the log that are no records\n");
        let (out, notes) = logs(&["--run", "none"], false);
        assert!(out.is_empty() && notes.contains("no matching records in /"), "{notes}");
    }

    #[test]
    fn text_has_the_date_and_nothing_that_steers_a_terminal() {
        let (out, _) = logs(&["--run", "9f3c"], true);
        let lines: Vec<_> = out.lines().collect();
        assert!(
            lines[0].starts_with("2026-11-2") && lines[0].ends_with("INFO task      spawned pid=2"),
            "{out}"
        );
        assert!(lines[1].ends_with(r"WARN task-rpc  a\\b\xff\u{1b}[2J"), "{out}");
    }

    #[test]
    fn raw_gives_the_bytes_as_they_were_written_but_not_to_a_terminal() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path());
        store.append(RUNS, LOG[1].as_bytes()).unwrap();
        let args = Logs::try_parse_from(["logs", "-o", "raw"]).unwrap().logs;
        let raw = |terminal| {
            let mut out = Vec::new();
            shows(&args, terminal, &mut out, io::sink()).run(&store, io::stdout()).unwrap();
            out
        };
        assert_eq!(raw(false), b"a\\b\xff\x1b[2J\n");
        assert_eq!(raw(true), br"a\\b\xff\u{1b}[2J".iter().chain(b"\n").copied().collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_has_gone_is_told_from_a_full_disk() {
        struct Gone(io::ErrorKind);
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path());
        store.append(RUNS, LOG[0].as_bytes()).unwrap();
        let args = Logs::try_parse_from(["logs"]).unwrap().logs;
        let end = |kind| shows(&args, false, Gone(kind), io::sink()).run(&store, io::stdout());
        assert!(matches!(end(io::ErrorKind::BrokenPipe), Err(Failure::ClosedOutput)));
        assert!(matches!(end(io::ErrorKind::StorageFull), Err(Failure::Output(_))));
    }

    #[test]
    fn words_that_are_no_number_or_level_are_refused() {
        for words in [
            ["-n", "x"],
            ["-n", "-1"],
            ["--level", "loud"],
            ["-o", "xml"],
            ["--since", "soon"],
            ["-f", "--until=today"],
        ] {
            assert!(Logs::try_parse_from([&["logs"], &words[..]].concat()).is_err(), "{words:?}");
        }
    }
}

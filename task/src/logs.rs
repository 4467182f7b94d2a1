//! `task logs`: shows what the log has kept.

use std::io::{self, BufWriter, Write};
use std::str::FromStr;

use task_host::query::Query;
use task_host::record::{Level, Record, safe_json};
use task_host::screen::{Escaped, Style};
use task_host::store::{RUNS, Store, StoreError};

use crate::args::Color;
use crate::exit::Failure;

/// What `task logs` is asked for.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Show the last N records that match, or "all"
    #[arg(short = 'n', long, value_name = "N", default_value = "100")]
    lines: Lines,
    /// Show only this level and those above: trace, debug, info, warn or error
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "trace",
        hide_default_value = true,
        ignore_case = true
    )]
    level: Level,
    /// Show only what this program said: task or task-rpc
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Show only this run, by the beginning of its name
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
    /// As on the screen, with the date
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
    let style = Style::new(color.on(terminal), true);
    show(
        args,
        &Store::locate().map_err(unreadable)?,
        style,
        terminal,
        &mut BufWriter::new(stdout.lock()),
        &mut io::stderr(),
    )
}

fn show(
    args: &LogsArgs,
    store: &Store,
    mut style: Style,
    terminal: bool,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), Failure> {
    let query = Query {
        level: args.level,
        source: args.source.clone(),
        run: args.run.clone(),
        trace: args.trace.clone(),
    };
    let found = store.backward(RUNS).and_then(|files| query.last(args.lines.0, files)).map_err(unreadable)?;
    let mut text = String::new();
    for line in &found.lines {
        let Ok(record) = Record::from_line(line) else { continue }; // it was one when it was found
        text.clear();
        match args.output {
            Output::Text => style.write(&mut text, &record),
            Output::Json => text.push_str(&safe_json(&String::from_utf8_lossy(line))),
            Output::Raw if terminal => text.push_str(&Escaped(&record.message).to_string()),
            Output::Raw => out.write_all(&record.message_bytes()).map_err(unwritten)?,
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        out.write_all(text.as_bytes()).map_err(unwritten)?;
    }
    out.flush().map_err(unwritten)?;
    // A note that cannot be written is no failure.
    if found.broken > 0 {
        let _ = writeln!(notes, "skipped {} lines of the log that are no records", found.broken);
    }
    if found.lines.is_empty() {
        let _ = writeln!(notes, "no matching records in {}", Escaped(&store.dir().to_string_lossy()));
    }
    Ok(())
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

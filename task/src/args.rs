//! The command line: words and `TASK_*` variables, parsed once into a checked [`Command`].
//!
//! A word that begins with `-` and goes on as a number is input, not a flag: `task -5 3`, `task -inf`,
//! `task -1,-2`. What an INPUT word *is* (number, file, standard input) is decided by [`inputs`](crate::inputs).

mod grammar;
mod help;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, OsStr, PathBufValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, ValueEnum};
use task_proto::handshake::SandboxMode;
use task_proto::limits::Limits;
use task_proto::number::parse_token;
use task_proto::stats::{Format, Missing};

use self::grammar::{AskingArgs, Cli, Sub};
use crate::exit::Failure;
use crate::logs::LogsArgs;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Start a worker, answer, stop it.
    OneShot(Box<Config>),
    /// Keep a service up.
    Serve(Box<ServeConfig>),
    /// Ask a running service for an answer.
    Call(Box<CallConfig>),
    /// Ask a running service how it stands, or tell it what to do.
    Control(ControlCall, ControlConfig),
    /// Show what happened.
    Logs(LogsArgs, Color),
    /// A completion script for this shell.
    Completions(clap_complete::Shell),
    /// The manual page.
    Man,
    /// Help or the version, rendered.
    Help(String),
}

/// A one-shot run: every flag checked, every default in place.
#[derive(Debug)]
pub struct Config {
    /// The INPUT words in order, flags taken out.
    pub words: Vec<OsString>,
    /// The one statistic that is wanted, bare; all three otherwise.
    pub only: Option<Only>,
    /// How to ask and to tell.
    pub asking: Asking,
    /// Memory for numbers, in bytes.
    pub memory: Option<u64>,
    /// What is asked of the worker's sandbox.
    pub sandbox: SandboxMode,
    /// The worker's program.
    pub rpc_bin: PathBuf,
    /// The runtime directory asked for; it must do, there is no falling back from it.
    pub runtime_dir: Option<PathBuf>,
}

/// A call of a running service: every flag checked, every default in place.
#[derive(Debug)]
pub struct CallConfig {
    /// The statistic that is wanted; a sign of life otherwise.
    pub only: Option<Only>,
    /// The INPUT words in order, flags taken out.
    pub words: Vec<OsString>,
    /// How to ask and to tell.
    pub asking: Asking,
    /// The service's socket; otherwise it is found in the runtime directory.
    pub socket: Option<PathBuf>,
    /// The runtime directory asked for.
    pub runtime_dir: Option<PathBuf>,
}

/// How to ask, and how to tell the answer.
#[derive(Debug)]
pub struct Asking {
    /// Answers and failures as JSON.
    pub json: bool,
    /// How much standard error shows.
    pub verbosity: Verbosity,
    /// How files and standard input are read.
    pub format: Format,
    /// What a missing value is.
    pub missing: Missing,
    /// How long each call may take, at most [`NO_DEADLINE`](task_proto::limits::NO_DEADLINE).
    pub timeout: Option<Duration>,
    /// When to colour.
    pub color: Color,
}

/// A service: every flag checked, every default in place.
#[derive(Debug)]
pub struct ServeConfig {
    /// Starts that may fail in a row; `None`: any number.
    pub max_failed_starts: Option<u32>,
    /// How much standard error shows.
    pub verbosity: Verbosity,
    /// The service's limits.
    pub limits: Limits,
    /// What is asked of the worker's sandbox.
    pub sandbox: SandboxMode,
    /// The worker's program.
    pub rpc_bin: PathBuf,
    /// The runtime directory asked for; it must do, there is no falling back from it.
    pub runtime_dir: Option<PathBuf>,
    /// When to colour.
    pub color: Color,
}

/// What a running service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlCall {
    /// How it stands.
    Status,
    /// To replace its worker.
    Restart,
    /// To end.
    Stop,
}

/// Where the service is, and how to speak of it.
#[derive(Debug, Args)]
pub struct ControlConfig {
    /// Print JSON; a failure is one line of JSON on standard error
    #[arg(long, env = "TASK_JSON", hide_env = true, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub json: bool,
    /// Where the service's sockets are [default: as of task serve]
    #[arg(long, env = "TASK_RUNTIME_DIR", hide_env = true, value_name = "DIR", value_parser = PathBufValueParser::new())]
    pub runtime_dir: Option<PathBuf>,
}

/// One of the three statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// The mean.
    Mean,
    /// The median.
    Median,
    /// The mode: one value a line, nothing when there is none.
    Mode,
}

/// How much standard error shows beside errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Nothing.
    Quiet,
    /// Warnings; the lifecycle too when there is no data.
    Normal,
    /// The lifecycle, and each call.
    Verbose,
    /// Everything, DEBUG too.
    Debug,
}

/// When to colour. `NO_COLOR` has already turned [`Color::Auto`] into [`Color::Never`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A command line that cannot be run, and how to say so.
#[derive(Debug)]
pub struct Rejected {
    /// What is wrong with it.
    pub failure: Failure,
    /// Whether it asked for JSON.
    pub json: bool,
}

/// Parses the command line, the program's name first, and the `TASK_*` variables.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, Rejected> {
    let words: Vec<OsString> = words.into_iter().map(shield_number).collect();
    checked(&words).map_err(|failure| Rejected { failure, json: wants_json(&words) })
}

/// The whole command line as clap sees it, for completions and the manual page.
pub fn grammar() -> clap::Command {
    Cli::command()
}

impl Color {
    /// Whether to colour a stream that is, or is not, a terminal.
    pub fn on(self, terminal: bool) -> bool {
        match self {
            Color::Auto => terminal,
            Color::Always => true,
            Color::Never => false,
        }
    }
}

/// Puts a space before a negative number, so that clap takes it for a value; the number grammar skips it.
fn shield_number(word: OsString) -> OsString {
    let bytes = word.as_bytes();
    let is_number = match bytes {
        // No flag begins like this: if the rest is no number, the error names the token.
        [b'-', b'0'..=b'9' | b'.', ..] => true,
        [b'-', _, ..] => bytes
            .split(|byte| *byte == b',' || byte.is_ascii_whitespace())
            .all(|token| parse_token(token).is_ok()),
        _ => false,
    };
    if is_number { OsString::from_vec([b" ", bytes].concat()) } else { word }
}

/// Takes the space away again. A word that the user began with a space and a minus sign loses one as well, which
/// changes no number.
fn unshield(word: OsString) -> OsString {
    match word.as_bytes() {
        [b' ', number @ ..] if number.starts_with(b"-") => OsString::from_vec(number.to_vec()),
        _ => word,
    }
}

fn checked(words: &[OsString]) -> Result<Command, Failure> {
    // A variable that is set to nothing is not set.
    let grammar = grammar().mut_args(|arg| {
        let empty =
            arg.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|set| set.is_empty()));
        if empty { arg.env(Resettable::<OsStr>::Reset) } else { arg }
    });
    let matches = match grammar.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Command::Help(error.render().to_string()));
        }
        Err(error) => return Err(usage(&error, words)),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| usage(&error, words))?;
    let color = match cli.color {
        Color::Auto if std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()) => Color::Never,
        color => color,
    };
    Ok(match cli.command {
        Some(Sub::Serve(serve)) => Command::Serve(Box::new(ServeConfig {
            max_failed_starts: serve.max_failed_starts.0,
            verbosity: matches.subcommand().map_or(Ok(Verbosity::Normal), |(_, serve)| verbosity(serve))?,
            limits: limits(serve.memory, serve.limit, matches.subcommand().map(|(_, serve)| serve))?,
            sandbox: serve.sandbox,
            rpc_bin: serve.rpc_bin.map_or_else(beside_this_program, Ok)?,
            runtime_dir: serve.runtime_dir,
            color,
        })),
        Some(Sub::Call(call)) => Command::Call(Box::new(CallConfig {
            only: call.method.only(),
            words: call.words.into_iter().map(unshield).collect(),
            asking: asking(&call.asking, matches.subcommand().map_or(&matches, |(_, call)| call), color)?,
            socket: call.socket,
            runtime_dir: call.runtime_dir,
        })),
        Some(Sub::Status(config)) => Command::Control(ControlCall::Status, config),
        Some(Sub::Restart(config)) => Command::Control(ControlCall::Restart, config),
        Some(Sub::Stop(config)) => Command::Control(ControlCall::Stop, config),
        Some(Sub::Logs(logs)) => Command::Logs(logs, color),
        Some(Sub::Completions { shell }) => Command::Completions(shell),
        Some(Sub::Man) => Command::Man,
        None => Command::OneShot(Box::new(Config {
            words: cli.words.into_iter().map(unshield).collect(),
            only: cli.only,
            asking: asking(&cli.asking, &matches, color)?,
            memory: cli.memory,
            sandbox: cli.sandbox,
            rpc_bin: cli.rpc_bin.map_or_else(beside_this_program, Ok)?,
            runtime_dir: cli.runtime_dir,
        })),
    })
}

/// As everywhere the words of the command line beat the variables: here name by name.
fn limits(
    memory: Option<u64>,
    mut options: Vec<String>,
    matches: Option<&ArgMatches>,
) -> Result<Limits, Failure> {
    let usage = |message| Failure::CommandUsage { command: "serve".to_owned(), message };
    let typed = matches.and_then(|serve| serve.value_source("memory")) == Some(ValueSource::CommandLine);
    if let Some(bytes) = memory.filter(|_| typed) {
        options.insert(0, format!("memory={bytes}"));
    }
    let limits = Limits { memory, ..Limits::default() }
        .with(std::env::var_os("TASK_LIMIT"), &options)
        .map_err(usage)?;
    if typed && limits.memory != memory {
        return Err(usage("--memory and --limit memory contradict each other".into()));
    }
    Ok(limits)
}

fn asking(args: &AskingArgs, matches: &ArgMatches, color: Color) -> Result<Asking, Failure> {
    let AskingArgs { json, format, missing, timeout, .. } = *args;
    Ok(Asking { json, verbosity: verbosity(matches)?, format, missing, timeout, color })
}

/// The command line beats the environment; both flags on the command line are a contradiction.
fn verbosity(matches: &ArgMatches) -> Result<Verbosity, Failure> {
    let typed = |flag: &str| matches.value_source(flag) == Some(ValueSource::CommandLine);
    let verbose = match matches.get_count("verbose") {
        0 => Verbosity::Normal,
        1 => Verbosity::Verbose,
        _ => Verbosity::Debug,
    };
    match (matches.get_flag("quiet"), verbose) {
        (true, Verbosity::Normal) => Ok(Verbosity::Quiet),
        (true, _) if typed("quiet") && typed("verbose") => {
            Err(Failure::Usage("--quiet and --verbose contradict each other".into()))
        }
        (true, _) if typed("verbose") => Ok(verbose),
        (true, _) => Ok(Verbosity::Quiet),
        (false, _) => Ok(verbose),
    }
}

fn beside_this_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::Usage(format!("cannot tell where this program is ({error}): name task-rpc by --rpc-bin"))
    })?;
    Ok(program.with_file_name("task-rpc"))
}

/// Whether a command line that did not parse asked for JSON.
fn wants_json(words: &[OsString]) -> bool {
    let set = std::env::var("TASK_JSON").is_ok_and(|set| {
        !matches!(set.to_ascii_lowercase().as_str(), "" | "0" | "n" | "no" | "f" | "false" | "off")
    });
    set || words.iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// clap's message and its tips in one line; its usage block is `--help`'s business.
fn usage(error: &clap::Error, words: &[OsString]) -> Failure {
    let rendered = error.render().to_string();
    let mut message = String::new();
    for line in rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")) {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        if line.is_empty() || line.starts_with("For more information") {
            continue;
        }
        let separator = match message.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        };
        // Writing to a String cannot fail.
        let _ = write!(message, "{separator}{}", line.strip_prefix("tip: ").unwrap_or(line));
    }
    // As the user wrote it: see `shield_number`.
    let message = message.replace("' -", "'-");
    let commands = commands();
    match words.iter().skip(1).find_map(|word| commands.iter().find(|command| word == command.as_str())) {
        Some(command) => Failure::CommandUsage { command: command.clone(), message },
        None => Failure::Usage(message),
    }
}

/// The commands, for the hint at a word that is none.
pub fn commands() -> Vec<String> {
    grammar().get_subcommands().map(|sub| sub.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests;

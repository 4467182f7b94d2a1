//! The command line as clap sees it: flags, their variables and their help. What its words mean is for
//! [`args`](super) to check.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, PathBufValueParser, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use task_proto::amount::{duration, size};
use task_proto::handshake::SandboxMode;
use task_proto::stats::{Format, Missing};

use super::{Color, ControlConfig, Only, help};
use crate::logs::LogsArgs;

#[derive(Parser)]
#[command(
    name = "task",
    version,
    about = "Mean, median and mode of numbers",
    long_about = help::ABOUT,
    after_long_help = help::TASK,
    max_term_width = 80,
    args_conflicts_with_subcommands = true,
    override_usage = "task [OPTIONS] [INPUT]...\n       task COMMAND",
)]
pub(super) struct Cli {
    /// Numbers, files, or '-' for standard input
    #[arg(value_name = "INPUT", long_help = help::INPUT)]
    pub(super) words: Vec<OsString>,
    /// Print one statistic, bare (mode: one value a line)
    #[arg(long, value_enum, env = "TASK_ONLY", hide_env = true, value_name = "WHICH")]
    pub(super) only: Option<Only>,
    #[command(flatten)]
    pub(super) asking: AskingArgs,
    /// Memory for numbers: 512M, 4G, or bytes [default: half of what there is]
    #[arg(long, env = "TASK_MEMORY", hide_env = true, value_name = "SIZE", value_parser = size)]
    pub(super) memory: Option<u64>,
    /// The worker's sandbox: no files, no network; best-effort is what the kernel has of it
    #[arg(long, env = "TASK_SANDBOX", hide_env = true, value_name = "HOW", default_value = "best-effort", value_parser = sandbox_parser())]
    pub(super) sandbox: SandboxMode,
    /// The worker's program [default: task-rpc beside task]
    #[arg(long, env = "TASK_RPC_BIN", hide_env = true, value_name = "PATH", value_parser = PathBufValueParser::new())]
    pub(super) rpc_bin: Option<PathBuf>,
    /// Where the worker's socket goes [default: task/ in the user's runtime directory, else /tmp/task-UID]
    #[arg(long, env = "TASK_RUNTIME_DIR", hide_env = true, value_name = "DIR", value_parser = PathBufValueParser::new())]
    pub(super) runtime_dir: Option<PathBuf>,
    /// When to colour
    #[arg(
        long,
        env = "TASK_COLOR",
        hide_env = true,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub(super) color: Color,
    #[command(subcommand)]
    pub(super) command: Option<Sub>,
}

#[derive(Args)]
pub(super) struct AskingArgs {
    /// Print JSON; a failure is one line of JSON on standard error
    #[arg(long, env = "TASK_JSON", hide_env = true, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) json: bool,
    /// Say nothing but errors
    #[arg(short, long, env = "TASK_QUIET", hide_env = true, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) quiet: bool,
    /// Show what happens on standard error (-vv: in detail)
    #[arg(short, long, env = "TASK_VERBOSE", hide_env = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// How files and standard input are read: text, f64 and i64 (little-endian values) or npy
    #[arg(long, env = "TASK_FORMAT", hide_env = true, value_name = "FORMAT", default_value = "text", value_parser = format_parser())]
    pub(super) format: Format,
    /// What a missing value (nan, NA, null, an empty field) is: error or skip
    #[arg(long, env = "TASK_MISSING", hide_env = true, value_name = "HOW", default_value = "error", value_parser = missing_parser())]
    pub(super) missing: Missing,
    /// Give up after this long: 500ms, 2s, 1m; a plain number is in seconds
    #[arg(long, env = "TASK_TIMEOUT", hide_env = true, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Args)]
pub(super) struct CallArgs {
    /// What to ask for
    #[arg(value_enum)]
    pub(super) method: Method,
    /// Numbers, files, or '-' for standard input, as of task itself
    #[arg(value_name = "INPUT")]
    pub(super) words: Vec<OsString>,
    #[command(flatten)]
    pub(super) asking: AskingArgs,
    /// The service's socket [default: rpc.sock in the runtime directory]
    #[arg(long, env = "TASK_SOCKET", hide_env = true, value_name = "PATH", value_parser = PathBufValueParser::new())]
    pub(super) socket: Option<PathBuf>,
    /// Where the service's sockets are [default: as of task serve]
    #[arg(long, env = "TASK_RUNTIME_DIR", hide_env = true, value_name = "DIR", value_parser = PathBufValueParser::new())]
    pub(super) runtime_dir: Option<PathBuf>,
}

/// What a service can be asked.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Method {
    /// The mean
    Mean,
    /// The median
    Median,
    /// The mode
    Mode,
    /// A sign of life, without INPUT
    Ping,
}

impl Method {
    pub(super) fn only(self) -> Option<Only> {
        match self {
            Method::Mean => Some(Only::Mean),
            Method::Median => Some(Only::Median),
            Method::Mode => Some(Only::Mode),
            Method::Ping => None,
        }
    }
}

#[derive(Args)]
pub(super) struct ServeArgs {
    /// Give up after this many failed starts in a row within a minute: a number, or none
    #[arg(
        long,
        env = "TASK_MAX_FAILED_STARTS",
        hide_env = true,
        value_name = "N",
        default_value = "5",
        value_parser = failed_starts
    )]
    pub(super) max_failed_starts: FailedStarts,
    /// Another limit than the usual, as often as there are some: held=32M, drain=30s; --help has all
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) limit: Vec<String>,
    /// Say nothing but errors
    #[arg(short, long, env = "TASK_QUIET", hide_env = true, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) quiet: bool,
    /// Show each call, and everything else in detail
    #[arg(short, long, env = "TASK_VERBOSE", hide_env = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// Memory for numbers: 512M, 4G, or bytes [default: half of what there is]
    #[arg(long, env = "TASK_MEMORY", hide_env = true, value_name = "SIZE", value_parser = size)]
    pub(super) memory: Option<u64>,
    /// The worker's sandbox: no files, no network; best-effort is what the kernel has of it
    #[arg(long, env = "TASK_SANDBOX", hide_env = true, value_name = "HOW", default_value = "best-effort", value_parser = sandbox_parser())]
    pub(super) sandbox: SandboxMode,
    /// The worker's program [default: task-rpc beside task]
    #[arg(long, env = "TASK_RPC_BIN", hide_env = true, value_name = "PATH", value_parser = PathBufValueParser::new())]
    pub(super) rpc_bin: Option<PathBuf>,
    /// Where the sockets go [default: task/ in the user's runtime directory, else /tmp/task-UID]
    #[arg(long, env = "TASK_RUNTIME_DIR", hide_env = true, value_name = "DIR", value_parser = PathBufValueParser::new())]
    pub(super) runtime_dir: Option<PathBuf>,
}

/// Failed starts in a row; `None`: any number.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailedStarts(pub(super) Option<u32>);

#[derive(Subcommand)]
pub(super) enum Sub {
    /// Keep the service up in the foreground, for other programs to call
    #[command(after_long_help = help::serve())]
    Serve(ServeArgs),
    /// Ask a running service
    #[command(after_long_help = help::CALL)]
    Call(CallArgs),
    /// Show how the service stands
    #[command(after_long_help = help::STATUS)]
    Status(ControlConfig),
    /// Replace the service's worker by a new one, without losing a call
    #[command(after_long_help = help::RESTART)]
    Restart(ControlConfig),
    /// Stop the service, once it has answered what it was asked
    #[command(after_long_help = help::STOP)]
    Stop(ControlConfig),
    /// Show what happened, in runs and under serve
    #[command(after_long_help = help::LOGS)]
    Logs(LogsArgs),
    /// Print a completion script for a shell
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page (task man | man -l -)
    Man,
}

fn sandbox_parser() -> impl TypedValueParser<Value = SandboxMode> {
    PossibleValuesParser::new(SandboxMode::NAMES).try_map(|name| name.parse())
}

fn format_parser() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
        .map(|word| Format::ALL.into_iter().find(|format| format.name() == word).unwrap_or_default())
}

fn missing_parser() -> impl TypedValueParser<Value = Missing> {
    PossibleValuesParser::new(["error", "skip"])
        .map(|word| if word == "skip" { Missing::Skip } else { Missing::Error })
}

fn failed_starts(text: &str) -> Result<FailedStarts, String> {
    match text.trim() {
        "none" => Ok(FailedStarts(None)),
        text => match text.parse() {
            Ok(0) | Err(_) => Err("it must be a number from 1 up, or none".into()),
            Ok(number) => Ok(FailedStarts(Some(number))),
        },
    }
}

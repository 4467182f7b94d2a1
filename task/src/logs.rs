//! `task logs`.

use crate::args::Color;
use crate::exit::Failure;

/// What to show of the log.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {}

/// Shows it.
pub fn run(_logs: &LogsArgs, _color: Color) -> Result<(), Failure> {
    Err(Failure::Internal("task logs is not built yet".into()))
}

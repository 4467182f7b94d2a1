//! The life of a one-shot run.

use crate::args::Config;
use crate::exit::Failure;
use crate::inputs;

/// Gathers the inputs, starts a worker, asks it, prints the answer and removes the worker.
pub fn run(config: &Config) -> Result<(), Failure> {
    inputs::gather(&config.words, config.missing, rustix::stdio::stdin())?;
    Err(Failure::Internal("the worker is not built yet".into()))
}

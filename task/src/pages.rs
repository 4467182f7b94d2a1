//! What other programs read of the command line: completion scripts and the manual page.

use clap_complete::Shell;

use crate::args;
use crate::exit::{Failure, print};

/// Prints a completion script for this shell.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::grammar(), "task", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the manual page as roff: `task man | man -l -`.
pub fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(args::grammar())
        .render(&mut page)
        .map_err(|error| Failure::Internal(error.to_string()))?;
    print(&String::from_utf8_lossy(&page))
}

//! What other programs read of the command line: completion scripts and the manual page.

use std::io;

use clap_complete::Shell;
use clap_mangen::Man;

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
    render(&mut page).map_err(|error| Failure::Internal(error.to_string()))?;
    print(&String::from_utf8_lossy(&page))
}

/// One page with the options of every command, which otherwise would be on pages of their own.
fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let mut grammar = args::grammar();
    grammar.build();
    Man::new(grammar.clone()).render(page)?;
    for command in grammar.get_subcommands().filter(|command| command.get_name() != "help") {
        let mut options = Vec::new();
        Man::new(command.clone()).render_options_section(&mut options)?;
        let heading = format!(".SH \"TASK {}\"", command.get_name().to_uppercase());
        page.extend(String::from_utf8_lossy(&options).replace(".SH OPTIONS", &heading).into_bytes());
    }
    Ok(())
}

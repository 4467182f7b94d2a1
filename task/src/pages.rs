//! What other programs read of the command line: completion scripts and the manual page.

use std::io;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

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

/// One page for all commands: nobody installs more.
fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let mut grammar = args::grammar();
    grammar.build();
    let commands = || grammar.get_subcommands().filter(|command| command.get_name() != "help");
    let man = Man::new(grammar.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    let mut list = Roff::new();
    list.control("SH", ["COMMANDS"]);
    for command in commands() {
        list.control("TP", []);
        list.text([bold(format!("task {}", command.get_name()))]);
        list.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    list.to_writer(page)?;
    man.render_options_section(page)?;
    explain(&grammar, "SH").to_writer(page)?;
    for command in commands() {
        describe(command, page)?;
    }
    man.render_version_section(page)
}

/// A section for a command.
fn describe(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let mut head = Roff::new();
    head.control("SH", [format!("TASK {}", command.get_name().to_uppercase()).as_str()]);
    head.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    head.control("PP", []);
    let usage = command.clone().render_usage().to_string();
    head.text([bold(usage.trim_start_matches("Usage: "))]);
    head.to_writer(page)?;
    // What every command has stands with task itself.
    let own = command.clone().mut_args(|arg| match arg.get_id().as_str() {
        "color" | "help" => arg.hide(true),
        _ => arg,
    });
    if own.get_arguments().any(|arg| !arg.is_hide_set()) {
        let mut options = Vec::new();
        Man::new(own).render_options_section(&mut options)?;
        page.extend(String::from_utf8_lossy(&options).replace(".SH OPTIONS", ".SS Options").into_bytes());
    }
    explain(command, "SS").to_writer(page)
}

/// What stands below a command's flags, with its headings as sections of this kind.
fn explain(command: &Command, section: &str) -> Roff {
    let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let mut explained = Roff::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        let body = match paragraph.split_once(":\n") {
            Some((title, body)) if !title.contains('\n') => {
                let title = if section == "SH" { title.to_uppercase() } else { title.to_owned() };
                explained.control(section, [title.as_str()]);
                body
            }
            _ => {
                explained.control("PP", []);
                paragraph
            }
        };
        explained.control("nf", []);
        for line in body.lines() {
            explained.text([roman(line)]);
        }
        explained.control("fi", []);
    }
    explained
}

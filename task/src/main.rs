//! `task`: mean, median and mode of numbers, computed by a worker that it starts, watches and removes.

#![expect(unreachable_pub, reason = "a program has no outside: pub is what a module offers the others")]

mod answer;
mod args;
mod descriptors;
mod exit;
mod inputs;
mod logs;
mod one_shot;
mod pages;
mod prompt;
mod signals;
mod words;

use std::process::ExitCode;

use args::{Command, Rejected};

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(Rejected { failure, json }) => return failure.end(json),
    };
    let json = matches!(&command, Command::OneShot(config) if config.json);
    let ended = match command {
        Command::OneShot(config) => one_shot::run(&config),
        Command::Logs(logs, color) => logs::run(&logs, color),
        Command::Completions(shell) => pages::completions(shell),
        Command::Man => pages::man(),
        Command::Help(page) => exit::print(&page),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(json),
    }
}

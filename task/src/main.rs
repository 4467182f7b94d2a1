//! `task`: mean, median and mode of numbers, computed by a worker that it starts, watches and removes.

#![expect(unreachable_pub, reason = "a program has no outside: pub is what a module offers the others")]

mod answer;
mod args;
mod ask;
mod call;
mod descriptors;
mod exit;
mod inputs;
mod logs;
mod notify;
mod one_shot;
mod pages;
mod progress;
mod prompt;
mod run;
mod serve;
mod signals;
mod status;
mod wording;
mod words;

use std::process::ExitCode;

use args::{Command, Rejected};

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(Rejected { failure, json }) => return failure.end(json),
    };
    let json = match &command {
        Command::OneShot(config) => config.asking.json,
        Command::Call(config) => config.asking.json,
        Command::Control(_, config) => config.json,
        _ => false,
    };
    let ended = match command {
        Command::OneShot(config) => one_shot::run(&config),
        Command::Serve(config) => serve::run(&config),
        Command::Call(config) => call::run(&config),
        Command::Control(call, config) => status::run(call, &config),
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

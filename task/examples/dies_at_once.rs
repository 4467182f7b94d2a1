//! A worker that cannot start and says why: as one does whose library or configuration is missing.

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("words on standard output");
    eprintln!("reading the configuration");
    eprintln!("no such table: \x1b[31mprimes\x1b[0m");
    ExitCode::from(3)
}

//! What people see who run `task`: real binaries, on real pipes, files and terminals.
//!
//! One test program, so that it is linked once. `invocation` starts commands and `terminal` gives them a terminal;
//! every run is checked to have left no worker, no socket and no directory.

#![expect(unreachable_pub, reason = "a program has no outside: pub is what a module offers the others")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in a function of its own too")]

mod answers;
mod bad_input;
mod bad_surroundings;
mod call;
mod control;
mod formats;
mod frames;
mod invocation;
mod logs;
mod makefile;
mod misuse;
mod other_client;
mod pages;
mod readme;
mod screens;
mod serve;
mod systemd;
mod terminal;

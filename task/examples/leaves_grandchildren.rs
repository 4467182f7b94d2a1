//! A worker that starts two processes which hold its standard output and error and never end by themselves, one in
//! its process group and one in a session of its own: as one does that calls a shell script with `&`, or a daemon.
//!
//! They have the host's pid in their command line, by which they can be found, and end after a minute.

mod canned;

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

const GRANDCHILDREN: [&str; 2] = ["grandchild-in-the-group", "grandchild-in-a-session"];
use task_worker::WorkerError;

fn main() -> Result<(), WorkerError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [role, ..] = &words[..]
        && GRANDCHILDREN.contains(&&**role)
    {
        stay(role);
        return Ok(());
    }
    for role in GRANDCHILDREN {
        start(role, &words);
    }
    canned::serve(|| {})
}

/// Starts one and waits until it stands where it is to stand.
#[expect(clippy::zombie_processes, reason = "that nobody waits for it is what this program is for")]
fn start(role: &str, words: &[String]) {
    let (mut ours, theirs) = UnixStream::pair().expect("sockets can be made");
    let program = std::env::current_exe().expect("this program has a path");
    // The command, and with it our copy of its stdin, goes here.
    Command::new(program)
        .arg(role)
        .args(words)
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .expect("it can be started");
    ours.read_exact(&mut [0]).expect("it says that it stands");
}

fn stay(role: &str) {
    if role == GRANDCHILDREN[1] {
        rustix::process::setsid().expect("it leads no process group");
    }
    let mut stdin = UnixStream::from(rustix::io::dup(rustix::stdio::stdin()).expect("stdin is a socket"));
    stdin.write_all(b".").expect("the worker waits for this");
    std::thread::sleep(Duration::from_mins(1));
}

//! A worker whose first generation is killed in its first call, before it has read a byte of input, and whose second
//! is the real one: as a machine does that runs out of memory once.

mod canned;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::net::{RecvFlags, recv};
use rustix::process::{Signal, getpid, kill_process};
use task_worker::WorkerError;

fn main() -> Result<(), WorkerError> {
    if generation() == 1 {
        return canned::serve(|| kill_process(getpid(), Signal::KILL).expect("it is ours"));
    }
    let here = std::env::current_exe().expect("this program has a path");
    let real = here.ancestors().nth(2).expect("examples stand in a directory").join("task-rpc");
    let error = Command::new(real).args(std::env::args_os().skip(1)).exec();
    panic!("cannot run the real worker: {error}");
}

/// Which worker of its host this is, from a look at hello that leaves it where it is.
fn generation() -> u64 {
    let mut hello = vec![0; 64 * 1024];
    let (length, _) =
        recv(rustix::stdio::stdin(), &mut hello[..], RecvFlags::PEEK).expect("a host says hello");
    let hello: serde_json::Value = serde_json::from_slice(&hello[..length]).expect("hello is JSON");
    hello["hello"]["generation"].as_u64().expect("hello names the generation")
}

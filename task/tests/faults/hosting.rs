//! The example of a host and a worker of one's own, `task/examples/host.rs` and `worker.rs`.

use std::io::Write as _;

use crate::house::{House, Run, example, kill, until};

/// The pid of the worker that greeted `name`.
fn greeted(run: &Run, name: &str) -> u32 {
    let greeting = format!("Hello, {name}! This is process ");
    until("the greeting is there", || {
        let stdout = run.stdout();
        let pid = stdout.lines().find_map(|line| line.strip_prefix(&greeting)?.strip_suffix('.'))?;
        Some(pid.parse().unwrap())
    })
}

#[test]
fn a_host_of_ones_own_survives_the_death_of_its_worker() {
    let house = House::new();
    let (reader, mut names) = std::io::pipe().unwrap();
    let run = Run::start(house.command(&example("host")).arg(example("worker")).stdin(reader));
    let host = run.pid();
    names.write_all(b"Ada\n").unwrap();
    let first = greeted(&run, "Ada");
    assert_ne!(first, host);
    kill(first);
    names.write_all(b"Grace\n").unwrap();
    let second = greeted(&run, "Grace");
    assert_ne!(second, first);
    drop(names);
    let ended = run.end();
    assert!(ended.status.success(), "{ended}");
    ended.says(&["WARN", "worker killed by SIGKILL"]);
    assert!(house.left().is_empty() && house.processes(host).is_empty(), "{ended}");
}

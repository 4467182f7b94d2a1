//! `task serve` in a house of its own, and what can be seen of it from outside.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::Value;

use crate::house::{Ended, House, LIMIT, Run, example};

/// A service that is to be started, and started again after its end.
pub(crate) struct Service {
    pub(crate) house: House,
    worker: Option<&'static str>,
    flags: Vec<&'static str>,
}

/// One that runs.
pub(crate) struct Serving<'a> {
    service: &'a Service,
    pub(crate) run: Run,
    /// As systemd's: it says there when it is ready.
    notices: UnixDatagram,
}

impl Service {
    /// With the real worker.
    pub(crate) fn new(flags: &[&'static str]) -> Self {
        Service { house: House::new(), worker: None, flags: flags.to_vec() }
    }

    /// With one of the programs in `task/examples` as its worker.
    pub(crate) fn of(worker: &'static str, flags: &[&'static str]) -> Self {
        Service { worker: Some(worker), ..Service::new(flags) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.house.runtime().join("rpc.sock")
    }

    /// The socket files that are there.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        ["rpc.sock", "control.sock"]
            .into_iter()
            .map(|name| self.house.runtime().join(name))
            .filter(|socket| socket.symlink_metadata().is_ok())
            .collect()
    }

    /// A command of `task` on this service.
    pub(crate) fn task(&self, command: &str) -> Command {
        let mut task = self.house.command(Path::new(env!("CARGO_BIN_EXE_task")));
        task.arg(command);
        task
    }

    pub(crate) fn start(&self) -> Serving<'_> {
        let path = self.house.path("notices");
        // What a former run said is not for this one.
        let _ = fs::remove_file(&path);
        let notices = UnixDatagram::bind(&path).unwrap();
        let mut command = self.task("serve");
        // By the directory in its words a copy of it that has not become a worker yet is told from others.
        command.arg("--runtime-dir").arg(self.house.runtime()).args(&self.flags).env("NOTIFY_SOCKET", &path);
        if let Some(worker) = self.worker {
            command.env("TASK_RPC_BIN", example(worker));
        }
        Serving { service: self, run: Run::start(&mut command), notices }
    }

    /// The records of the log.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.house.path("state/task/log/serve.jsonl")).unwrap_or_default();
        // The last line may be one that is just being written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The records of the log that say this.
    pub(crate) fn logged(&self, text: &str) -> Vec<Value> {
        let mut log = self.log();
        log.retain(|record| record["message"].as_str().is_some_and(|message| message.contains(text)));
        log
    }
}

impl Serving<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.run.pid()
    }

    /// Waits until it is ready; false if it ended before.
    pub(crate) fn is_ready(&self) -> bool {
        let start = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(start.elapsed());
            let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut ready =
                [PollFd::new(&self.notices, PollFlags::IN), PollFd::new(self.run.pidfd(), PollFlags::IN)];
            let count = rustix::io::retry_on_intr(|| poll(&mut ready, Some(&limit))).unwrap();
            assert!(count > 0, "it was not ready within {LIMIT:?}:\n{}", self.run.stderr());
            if !ready[0].revents().contains(PollFlags::IN) {
                return false;
            }
            let mut notice = [0; 4096];
            let length = self.notices.recv(&mut notice).unwrap();
            if notice[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                // Nobody reads on: whatever else it says there must not hold it up.
                self.notices.shutdown(Shutdown::Both).unwrap();
                return true;
            }
        }
    }

    /// Waits until it is ready.
    #[track_caller]
    pub(crate) fn ready(&self) {
        assert!(self.is_ready(), "it ended before it was ready:\n{}", self.run.stderr());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.run.signal(signal);
    }

    /// Ends it as people do.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.run.signal(Signal::TERM);
        let service = self.service;
        let ended = self.run.end();
        assert_eq!(ended.status.code(), Some(0), "{ended}");
        assert!(service.sockets().is_empty(), "{:?} is left of {ended}", service.sockets());
        ended
    }

    /// Waits for its end, and for that of all that it started: how long after it that was.
    pub(crate) fn end(self) -> (Ended, Duration) {
        let pid = self.pid();
        let ended = self.run.end();
        let gone = self.service.house.gone(pid, ended.at);
        (ended, gone)
    }
}

//! Stands in for what the supervisor does not tell yet.

use super::{Calls, Connections, Report, State};
use crate::supervisor::{ServicePhase, Supervisor};
use crate::verdict::Verdict;

pub(super) fn report(supervisor: &Supervisor) -> Report {
    let status = supervisor.status();
    let status = status.borrow();
    let state = match &status.phase {
        ServicePhase::Starting => State::Starting,
        ServicePhase::Serving { .. } => State::Serving,
        _ => State::Stopping,
    };
    Report {
        state,
        pid: std::process::id(),
        run: String::new(),
        socket: supervisor.socket().path().display().to_string(),
        uptime_s: 0.0,
        restarts: status.died,
        last_restart: None,
        sandbox: None,
        child: None,
        draining: Vec::new(),
        calls: Calls { total: 0, failed: 0, in_flight: 0, p50_us: None, p99_us: None },
        connections: Connections { open: 0, total: 0, limit: supervisor.limits().connections as u64 },
        memory_bytes: 0,
    }
}

#[expect(clippy::unused_async, reason = "the supervisor's own will be")]
pub(super) async fn hand_over(_: &Supervisor) -> Result<u64, String> {
    Err("this build cannot replace its worker yet".into())
}

#[expect(clippy::unused_async, reason = "the supervisor's own will be")]
pub(super) async fn verdict(_: &Supervisor, _: u64, _: u128) -> Verdict {
    Verdict::Unknown
}

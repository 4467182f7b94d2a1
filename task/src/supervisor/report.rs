//! How a service stands, in figures.

use std::sync::Arc;

use task_proto::crash::TraceId;
use task_proto::scoreboard::Snapshot;

use super::autopsy::resident;
use super::{Running, ServicePhase, Supervisor};
use crate::control::{Calls, Child, Connections, Reading, Report, State};

impl Supervisor {
    /// How far the calls of this trace id have read their input; `None` where no worker executes one.
    pub fn reading(&self, trace_id: TraceId) -> Option<Reading> {
        let boards: Vec<_> =
            self.status.borrow().workers.iter().map(|worker| Arc::clone(&worker.board)).collect();
        let calls = boards.iter().filter_map(|board| board.read().ok()).flat_map(|seen| seen.calls);
        let calls = calls.filter(|call| call.trace_id == trace_id.0);
        calls.map(|call| Reading { read: call.read, consumed: call.consumed }).max_by_key(|seen| seen.read)
    }

    /// How the service stands now.
    pub fn report(&self) -> Report {
        let status = self.status.borrow().clone();
        let serving = match &status.phase {
            ServicePhase::Serving { generation, .. } => Some(*generation),
            _ => None,
        };
        let mut totals = status.past;
        let mut in_flight = 0;
        let mut open = Connections { open: 0, total: 0, limit: self.limits.connections as u64 };
        let mut limits = self.limits.clone();
        let (mut child, mut sandbox, mut draining) = (None, None, Vec::new());
        for worker in &status.workers {
            let seen: Option<Snapshot> = worker.board.read().ok();
            if let Some(seen) = &seen {
                totals.add(seen);
                in_flight += seen.calls.len() as u64;
            }
            if Some(worker.generation) == serving {
                sandbox = Some(worker.ready.sandbox);
                limits.memory = limits.memory.or(worker.ready.memory);
                child = Some(described(worker));
                if let Some(seen) = &seen {
                    (open.open, open.total) = (seen.connections, seen.connections_total);
                }
            } else {
                draining.push(described(worker));
            }
        }
        Report {
            state: match status.phase {
                ServicePhase::Starting => State::Starting,
                ServicePhase::Waiting => State::Waiting,
                ServicePhase::Serving { .. } if status.reloading => State::Reloading,
                ServicePhase::Serving { .. } => State::Serving,
                ServicePhase::Stopping | ServicePhase::Ended(_) => State::Stopping,
            },
            pid: std::process::id(),
            run: self.run.clone(),
            socket: self.socket.path().display().to_string(),
            uptime_s: self.began.elapsed().as_secs_f64(),
            restarts: status.restarts,
            last_restart: status.last_restart,
            sandbox,
            child,
            draining,
            calls: Calls {
                total: totals.calls,
                failed: totals.failed,
                in_flight,
                p50_us: totals.latencies.quantile(0.5),
                p99_us: totals.latencies.quantile(0.99),
            },
            connections: open,
            limits,
            memory_bytes: resident(std::process::id()),
        }
    }
}

fn described(worker: &Running) -> Child {
    Child {
        pid: worker.ready.pid,
        generation: worker.generation,
        build: worker.ready.build.clone(),
        uptime_s: worker.since.elapsed().as_secs_f64(),
        memory_bytes: resident(worker.ready.pid),
    }
}

//! One call, observed: its slot on the scoreboard, its progress, its line in the log.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tarpc::context::Context;
use tarpc::server::Serve;
use tarpc::trace::SamplingDecision;
use tarpc::{RequestName, ServerError};
use task_proto::crash::TraceId;
use task_proto::limits::SLOW_CALL;
use task_proto::scoreboard::{CallSlot, ConnectionSlot};
use tracing::Level;

use crate::blamed::Turn;
use crate::connection::Shared;
use crate::log::CallLevel;
use crate::told::More;

/// A service whose calls are shown, counted and logged.
#[derive(Debug, Clone)]
pub(crate) struct Observed<S> {
    pub(crate) service: S,
    pub(crate) shared: Rc<Shared>,
    pub(crate) connection: Rc<ConnectionSlot>,
}

impl<S: Serve> Serve for Observed<S> {
    type Req = S::Req;
    type Resp = S::Resp;

    async fn serve(self, context: Context, request: S::Req) -> Result<S::Resp, ServerError> {
        let trace_id = TraceId(match u128::from(context.trace_context.trace_id) {
            0 => drawn(),
            given => given,
        });
        let Shared { blamed, .. } = &*self.shared;
        let slot = self.connection.begin(request.name(), trace_id.0);
        let name = self.shared.names.of(request.name());
        // Dropped after the call: it is another's turn only when this one is no longer shown.
        let turn;
        let mut call = Call {
            shared: Rc::clone(&self.shared),
            slot,
            name,
            trace_id,
            deadline: context.deadline,
            sampled: matches!(context.trace_context.sampling_decision, SamplingDecision::Sampled),
            answered: false,
        };
        let progress = call.slot.progress();
        let answer = if let Some(crash) = blamed.sentence(trace_id) {
            tracing::warn!(log.target = "worker", %crash, %trace_id, "not executed: workers died of this call");
            progress.fail(crash);
            Err(crash.to_error())
        } else if blamed.has_suspects() {
            turn = Box::pin(blamed.turn(trace_id, &progress)).await;
            let executed = self.service.serve(context, request);
            let executed = Box::pin(Turn::scope(turn.clone(), progress.clone().scope(executed)));
            Box::pin(blamed.execute(turn.is_some(), &progress, executed)).await
        } else {
            progress.scope(self.service.serve(context, request)).await
        };
        if let Err(error) = &answer {
            call.slot.progress().fail(&error.detail);
        }
        call.answered = true;
        answer
    }
}

/// The names of methods that were called: to copy one for each call takes as long as to find its copy.
#[derive(Debug, Default)]
pub(crate) struct Names(RefCell<Vec<Rc<str>>>);

impl Names {
    /// More than a service has methods.
    const MOST: usize = 64;

    fn of(&self, name: &str) -> Rc<str> {
        let mut known = self.0.borrow_mut();
        if let Some(name) = known.iter().find(|known| ***known == *name) {
            return Rc::clone(name);
        }
        let name: Rc<str> = name.into();
        if known.len() < Names::MOST {
            known.push(Rc::clone(&name));
        }
        name
    }
}

/// A trace id for a call of a client that gives none, as tarpc's own do where nothing is traced. Who knows one cannot tell
/// the next: they are hashes of a count under keys that only this process has. The kernel's own random numbers would take
/// a system call for each.
fn drawn() -> u128 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = [0, 1].map(|half| u128::from(KEYS.hash_one((count, half))));
    high << 64 | low
}

/// Logs and counts the call when it is dropped, as then its fate is known: answered, cancelled or panicked.
struct Call {
    shared: Rc<Shared>,
    slot: CallSlot,
    name: Rc<str>,
    trace_id: TraceId,
    deadline: Instant,
    /// Whoever follows a call wants to see it here, too.
    sampled: bool,
    answered: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        let panicked = thread::panicking();
        if panicked {
            self.slot.progress().fail("panicked");
        }
        let over = self.answered || panicked;
        let us = if over { self.slot.answered() } else { self.slot.elapsed() };
        let failed = self.slot.failure().is_some();
        let message = match (over, failed) {
            (true, true) => "failed",
            (true, false) => "answered",
            _ if self.deadline <= Instant::now() => "deadline passed",
            _ => "cancelled",
        };
        // Data that is no numbers is a client's affair: nothing for the host to be warned of.
        let notable = failed || self.sampled || Duration::from_micros(us) > SLOW_CALL;
        let more = if self.shared.calls == CallLevel::Info {
            Some(None)
        } else if notable {
            self.shared.told.notable.one_of_some()
        } else {
            None
        };
        match more {
            Some(more) => self.log_info(message, us, more),
            None => self.log_debug(message, us, None),
        }
    }
}

/// The level of an event is part of its static data, so there is one event for each.
macro_rules! log_at {
    ($name:ident, $level:ident) => {
        fn $name(&self, message: &str, us: u64, more: More) {
            if !tracing::enabled!(Level::$level) {
                return;
            }
            let (service, method) = self.name.split_once('.').unwrap_or(("worker", &self.name));
            tracing::event!(
                Level::$level,
                log.target = service.to_ascii_lowercase(),
                method,
                count = self.slot.count(),
                us,
                reason = self.slot.failure(),
                more,
                trace_id = %self.trace_id,
                "{message}"
            );
        }
    };
}

impl Call {
    log_at!(log_info, INFO);
    log_at!(log_debug, DEBUG);
}

//! A worker of the statistics service that answers 42 to everything and reads nothing, for the programs beside it
//! that do something wrong while they serve.

use tarpc::context::Context;
use task_proto::fault::Fault;
use task_proto::number::Number;
use task_proto::stats::{Mean, Median, Mode, Pong, Query, Stats};
use task_worker::{SandboxMode, Worker, WorkerError};

/// Serves under the host that started this program, to the end. Each call runs `misbehave` before it is answered.
pub(crate) fn serve(misbehave: fn()) -> Result<(), WorkerError> {
    // The host calls its worker with `--supervised PID`; its own guards turn anybody else away.
    let host = std::env::args().next_back().and_then(|pid| pid.parse().ok()).unwrap_or_default();
    // They do what its sandbox would end them for.
    let worker = Worker::supervised(host)?.sandbox(SandboxMode::Off);
    worker.serve("Stats", move |_connection| Canned { misbehave }.serve())
}

#[derive(Clone)]
struct Canned {
    misbehave: fn(),
}

const VALUE: Number = Number::Int(42);

impl Stats for Canned {
    async fn mean(self, _: Context, _: Query) -> Result<Mean, Fault> {
        (self.misbehave)();
        Ok(Mean { value: VALUE, count: 1, missing: 0, warnings: Vec::new() })
    }

    async fn median(self, _: Context, _: Query) -> Result<Median, Fault> {
        (self.misbehave)();
        Ok(Median { value: VALUE, low: VALUE, high: VALUE, count: 1, missing: 0, warnings: Vec::new() })
    }

    async fn mode(self, _: Context, _: Query) -> Result<Mode, Fault> {
        (self.misbehave)();
        let values = vec![VALUE];
        Ok(Mode { values, frequency: 1, total: 1, count: 1, missing: 0, warnings: Vec::new() })
    }

    async fn ping(self, _: Context) -> Pong {
        Pong { pid: std::process::id(), generation: 0 }
    }

    async fn release(self, _: Context, _: u32) -> Result<(), Fault> {
        Ok(())
    }
}

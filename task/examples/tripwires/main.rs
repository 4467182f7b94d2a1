//! The real service, with numbers in it that harm the worker: as one has whose parser or algorithm meets the one input
//! that breaks it. See `wires.rs` for which.

#[path = "../../../task-rpc/src/service.rs"]
mod service;
mod wires;

use std::future::pending;
use std::thread;

use tarpc::context::Context;
use task_proto::fault::Fault;
use task_proto::limits::TICK;
use task_proto::number::Number;
use task_proto::scoreboard::{Activity, Progress};
use task_proto::stats::{Mean, Median, Mode, Pong, Query, Source, Stats};
use task_worker::engine::{Budget, Engine, Simd};
use task_worker::{Worker, WorkerError};

use service::Service;
use wires::Wire;

const WIRES: [Wire; 6] = [Wire::Abort, Wire::Slow, Wire::Long, Wire::Wait, Wire::Block, Wire::Spin];

#[derive(Clone)]
struct Wired {
    service: Service,
    generation: u64,
}

fn main() -> Result<(), WorkerError> {
    // The host calls its worker with `--supervised PID`; its own guards turn anybody else away.
    let host = std::env::args().next_back().and_then(|pid| pid.parse().ok()).unwrap_or_default();
    let worker = Worker::supervised(host)?;
    let engine = Engine::new(Simd::best(), Budget::new(worker.limits().memory));
    worker.serve("Stats", move |connection| {
        let service = Service::new(connection, &engine);
        Wired { service, generation: connection.generation }.serve()
    })
}

impl Wired {
    /// Does the harm that a query asks for.
    async fn touch(&self, query: &Query) {
        let [Source::Numbers(numbers), ..] = &query.sources[..] else { return };
        let Some(&Number::Int(first)) = numbers.first() else { return };
        match WIRES.into_iter().find(|wire| wire.number() == first) {
            Some(Wire::Abort) => std::process::abort(),
            Some(Wire::Slow) => tokio::time::sleep(TICK).await,
            Some(Wire::Long) => tokio::time::sleep(TICK * 10).await,
            // What follows is over in the next generation.
            _ if self.generation > 1 => {}
            Some(Wire::Wait) => pending::<()>().await,
            Some(Wire::Block) => loop {
                thread::park();
            },
            Some(Wire::Spin) => {
                Progress::current().enter(Activity::Computing);
                thread::spawn(|| {
                    loop {
                        std::hint::spin_loop();
                    }
                });
                pending::<()>().await;
            }
            None => {}
        }
    }
}

impl Stats for Wired {
    async fn mean(self, context: Context, query: Query) -> Result<Mean, Fault> {
        self.touch(&query).await;
        self.service.mean(context, query).await
    }

    async fn median(self, context: Context, query: Query) -> Result<Median, Fault> {
        self.touch(&query).await;
        self.service.median(context, query).await
    }

    async fn mode(self, context: Context, query: Query) -> Result<Mode, Fault> {
        self.touch(&query).await;
        self.service.mode(context, query).await
    }

    async fn ping(self, context: Context) -> Pong {
        self.service.ping(context).await
    }

    async fn release(self, context: Context, attached: u32) -> Result<(), Fault> {
        self.service.release(context, attached).await
    }
}

//! The service of this binary: mean, median and mode.

use std::rc::Rc;
use std::sync::Arc;

use tarpc::context::Context;
use task_proto::fault::{Fault, FaultKind};
use task_proto::number::Number;
use task_proto::scoreboard::Progress;
use task_proto::stats::{Mean, Median, Mode, Query, Source, Stats};
use task_proto::wire::Attachments;
use task_worker::Connection;
use task_worker::engine::{Data, Engine, Ingests, Statistic, no_attachment};

/// The service as one connection sees it. Each call has a clone.
#[derive(Debug, Clone)]
pub(crate) struct Service(Rc<Inputs>);

#[derive(Debug)]
struct Inputs {
    attachments: Attachments,
    ingests: Ingests,
    /// Attachments that a query may name: each may be large, and naming it costs next to nothing.
    most: usize,
    generation: u64,
}

impl Service {
    /// For this connection; the engine is the process's.
    pub(crate) fn new(connection: &Connection, engine: &Engine) -> Self {
        Service(Rc::new(Inputs {
            attachments: connection.attachments.clone(),
            ingests: Ingests::new(engine.of(connection.process), connection.limits.input_idle),
            most: connection.limits.attachments,
            generation: connection.generation,
        }))
    }

    async fn data(&self, query: Query, wanted: Statistic) -> Result<Arc<Data>, Fault> {
        let attached =
            query.sources.iter().filter(|source| matches!(source, Source::Attached { .. })).count();
        if attached > self.0.most {
            let most = self.0.most;
            let message =
                format!("a query may name {most} attachments, not {attached}; ask for less at once");
            return Err(Fault::new(FaultKind::TooLarge, message));
        }
        let data = self.0.ingests.data(query, wanted, |attached| self.0.attachments.get(attached)).await?;
        Progress::current().count(data.sequence().count());
        Ok(data)
    }
}

/// Tells the log and the scoreboard of a fault.
fn noted<T>(answer: Result<T, Fault>) -> Result<T, Fault> {
    answer.inspect_err(|fault| Progress::current().fail(format_args!("{}: {fault}", fault.kind)))
}

impl Stats for Service {
    async fn mean(self, _: Context, query: Query) -> Result<Mean, Fault> {
        noted(
            async {
                let data = self.data(query, Statistic::Mean).await?;
                let numbers = data.sequence();
                Ok(Mean {
                    value: Number::Float(numbers.mean()),
                    count: numbers.count(),
                    missing: numbers.missing(),
                    warnings: numbers.warnings().to_vec(),
                })
            }
            .await,
        )
    }

    async fn median(self, _: Context, query: Query) -> Result<Median, Fault> {
        noted(
            async {
                let data = self.data(query, Statistic::Median).await?;
                let median = data.median().await?;
                let numbers = data.sequence();
                Ok(Median {
                    value: median.value,
                    low: median.low,
                    high: median.high,
                    count: numbers.count(),
                    missing: numbers.missing(),
                    warnings: numbers.warnings().to_vec(),
                })
            }
            .await,
        )
    }

    async fn mode(self, _: Context, query: Query) -> Result<Mode, Fault> {
        noted(
            async {
                let data = self.data(query, Statistic::Mode).await?;
                let modes = data.modes().await?;
                let numbers = data.sequence();
                Ok(Mode {
                    values: modes.values.clone(),
                    frequency: modes.frequency,
                    total: modes.total,
                    count: numbers.count(),
                    missing: numbers.missing(),
                    warnings: numbers.warnings().to_vec(),
                })
            }
            .await,
        )
    }

    async fn ping(self, _: Context) -> task_proto::stats::Pong {
        task_proto::stats::Pong { pid: std::process::id(), generation: self.0.generation }
    }

    async fn release(self, _: Context, attached: u32) -> Result<(), Fault> {
        self.0.ingests.release(attached);
        noted(self.0.attachments.release(attached).then_some(()).ok_or_else(|| no_attachment(attached)))
    }
}

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
use task_worker::engine::{self, Data, Engine, Extent, Few, Ingests, Modes, Statistic, no_attachment};

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

    /// The numbers of a query that has few of its own: they are here already.
    fn few<'a>(&'a self, query: &'a Query) -> Option<Result<Few<'a>, Fault>> {
        let few = self.0.ingests.few(query)?;
        Some(few.inspect(|few| Progress::current().count(few.extent().count)))
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

fn mean(mean: f64, Extent { count, missing, warnings }: &Extent) -> Mean {
    let value = Number::Float(mean);
    Mean { value, count: *count, missing: *missing, warnings: warnings.clone() }
}

fn median(median: engine::Median, Extent { count, missing, warnings }: &Extent) -> Median {
    let engine::Median { value, low, high } = median;
    Median { value, low, high, count: *count, missing: *missing, warnings: warnings.clone() }
}

fn mode(modes: Modes<Number>, Extent { count, missing, warnings }: &Extent) -> Mode {
    let Modes { values, frequency, total } = modes;
    Mode { values, frequency, total, count: *count, missing: *missing, warnings: warnings.clone() }
}

/// What waits is behind a pointer: all that a future has room for is copied some times in every call.
impl Stats for Service {
    async fn mean(self, _: Context, query: Query) -> Result<Mean, Fault> {
        noted(match self.few(&query) {
            Some(few) => few.map(|few| mean(few.mean(), few.extent())),
            None => Box::pin(self.data(query, Statistic::Mean))
                .await
                .map(|data| mean(data.sequence().mean(), data.sequence().extent())),
        })
    }

    async fn median(self, _: Context, query: Query) -> Result<Median, Fault> {
        noted(match self.few(&query) {
            Some(few) => few.and_then(|few| Ok(median(few.median()?, few.extent()))),
            None => {
                Box::pin(async {
                    let data = self.data(query, Statistic::Median).await?;
                    Ok(median(*data.median().await?, data.sequence().extent()))
                })
                .await
            }
        })
    }

    async fn mode(self, _: Context, query: Query) -> Result<Mode, Fault> {
        noted(match self.few(&query) {
            Some(few) => few.and_then(|few| Ok(mode(few.modes()?, few.extent()))),
            None => {
                Box::pin(async {
                    let data = self.data(query, Statistic::Mode).await?;
                    Ok(mode(Modes::clone(&*data.modes().await?), data.sequence().extent()))
                })
                .await
            }
        })
    }

    async fn ping(self, _: Context) -> task_proto::stats::Pong {
        task_proto::stats::Pong { pid: std::process::id(), generation: self.0.generation }
    }

    async fn release(self, _: Context, attached: u32) -> Result<(), Fault> {
        self.0.ingests.release(attached);
        noted(self.0.attachments.release(attached).then_some(()).ok_or_else(|| no_attachment(attached)))
    }
}

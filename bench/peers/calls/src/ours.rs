//! `task-rpc`, called by this project's tarpc client as `examples/rust/call.rs` does.

use std::path::Path;

use tarpc::client::Config;
use tarpc::context::{self, Context};
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Query, StatsClient};
use task_proto::wire::{self, FdStream};

use crate::Failure;
use crate::measure::Call;

pub(crate) struct Caller(StatsClient);

impl Caller {
    pub(crate) async fn connect(path: &Path) -> Result<Self, Failure> {
        let limits = Limits::default();
        let stream = FdStream::new(wire::connect(path).await?, limits.attachments)?;
        Ok(Caller(StatsClient::new(Config::default(), wire::client(stream, &limits)).spawn()))
    }
}

impl Call for Caller {
    async fn mean(&self, numbers: &[f64]) -> Result<f64, Failure> {
        mean_by(&self.0, context::current(), numbers).await
    }
}

/// One call, with its query made anew.
pub(crate) async fn mean_by(client: &StatsClient, context: Context, numbers: &[f64]) -> Result<f64, Failure> {
    let query = Query::numbers(numbers.iter().copied().map(Number::Float).collect());
    match client.mean(context, query).await??.value {
        Number::Float(float) => Ok(float),
        Number::Int(int) => Ok(int as f64),
    }
}

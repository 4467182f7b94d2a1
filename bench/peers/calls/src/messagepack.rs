//! Stock tarpc with our trait, our messages and our encoding: what is between it and `ours` is the work of `task-rpc`.

use std::path::Path;

use futures::StreamExt;
use tarpc::client::Config;
use tarpc::context::{self, Context};
use tarpc::serde_transport::Transport;
use tarpc::server::{BaseChannel, Channel};
use task_proto::fault::{Fault, FaultKind};
use task_proto::number::Number;
use task_proto::stats::{Mean, Median, Mode, Pong, Query, Source, Stats, StatsClient};
use tokio::net::{UnixListener, UnixStream};
use tokio_serde::formats::MessagePack;

use crate::measure::Call;
use crate::{Failure, mean};

#[derive(Clone)]
struct Service;

impl Stats for Service {
    async fn mean(self, _: Context, query: Query) -> Result<Mean, Fault> {
        let Some(Source::Numbers(numbers)) = query.sources.first() else { return Err(not_here()) };
        let floats: Vec<_> = numbers
            .iter()
            .map(|number| match number {
                Number::Int(int) => *int as f64,
                Number::Float(float) => *float,
            })
            .collect();
        let value = Number::Float(mean(&floats));
        Ok(Mean { value, count: floats.len() as u64, missing: 0, warnings: Vec::new() })
    }

    async fn median(self, _: Context, _: Query) -> Result<Median, Fault> {
        Err(not_here())
    }

    async fn mode(self, _: Context, _: Query) -> Result<Mode, Fault> {
        Err(not_here())
    }

    async fn ping(self, _: Context) -> Pong {
        Pong { pid: std::process::id(), generation: 0 }
    }

    async fn release(self, _: Context, _: u32) -> Result<(), Fault> {
        Err(not_here())
    }
}

fn not_here() -> Fault {
    Fault::new(FaultKind::Internal, "only the mean of numbers is measured")
}

pub(crate) async fn serve(path: &Path) -> Result<(), Failure> {
    let listener = UnixListener::bind(path)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let channel = BaseChannel::with_defaults(Transport::from((stream, MessagePack::default())));
        tokio::spawn(channel.execute(Service.serve()).for_each(async |call| {
            tokio::spawn(call);
        }));
    }
}

pub(crate) struct Caller(StatsClient);

impl Caller {
    pub(crate) async fn connect(path: &Path) -> Result<Self, Failure> {
        let transport = Transport::from((UnixStream::connect(path).await?, MessagePack::default()));
        Ok(Caller(StatsClient::new(Config::default(), transport).spawn()))
    }
}

impl Call for Caller {
    async fn mean(&self, numbers: &[f64]) -> Result<f64, Failure> {
        crate::ours::mean_by(&self.0, context::current(), numbers).await
    }
}

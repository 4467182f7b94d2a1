//! Asks a running `task-rpc --socket PATH` for mean, median and mode: `call PATH NUMBER…`

use std::time::{Duration, Instant};

use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Query, StatsClient};
use task_proto::wire::{self, FdStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let path = words.next().ok_or("usage: call PATH NUMBER…")?;
    let numbers = words.map(|word| word.parse().map(Number::Float)).collect::<Result<Vec<_>, _>>()?;
    let query = Query::numbers(numbers);

    let limits = Limits::default();
    let stream = FdStream::new(wire::connect(path).await?, limits.attachments)?;
    let client = StatsClient::new(tarpc::client::Config::default(), wire::client(stream, &limits)).spawn();

    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + Duration::from_mins(1);
    // Three calls at once on one connection. The outer error is the call's, the inner one the data's.
    let (mean, median, mode) = tokio::try_join!(
        client.mean(context, query.clone()),
        client.median(context, query.clone()),
        client.mode(context, query),
    )?;
    println!("mean    {}", mean?.value);
    println!("median  {}", median?.value);
    let values: Vec<_> = mode?.values.iter().map(ToString::to_string).collect();
    println!("mode    {}", values.join(", "));
    Ok(())
}

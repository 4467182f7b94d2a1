//! Times calls on one warm connection, on request.

use std::future::Future;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;

use crate::{Failure, NUMBERS, mean};

/// Calls in flight at once.
const IN_FLIGHT: usize = 64;
/// Calls before the first that counts.
const WARM: usize = 2000;

/// A client on one connection.
pub(crate) trait Call: Send + Sync + 'static {
    /// The mean, by the server.
    fn mean(&self, numbers: &[f64]) -> impl Future<Output = Result<f64, Failure>> + Send;
}

/// Does what the lines of standard input ask for; see the program's description.
///
/// In a task, as calls of a program are: to wake the future of `block_on` itself takes the runtime two system calls.
pub(crate) async fn ask(caller: impl Call) -> Result<(), Failure> {
    tokio::spawn(asked(caller)).await?
}

async fn asked(caller: impl Call) -> Result<(), Failure> {
    let caller = Arc::new(caller);
    latency(&*caller, WARM).await?;
    println!("ready");
    for line in std::io::BufReader::new(std::io::stdin()).lines() {
        let line = line?;
        let answer = match line.split_once(' ') {
            Some(("latency", count)) => latency(&*caller, count.parse()?).await?,
            Some(("flight", count)) => flight(&caller, count.parse()?).await?,
            _ => return Err(format!("neither latency nor flight: {line}").into()),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

#[expect(clippy::float_cmp, reason = "the mean of these eight has no other value, however it is summed")]
async fn checked(caller: &impl Call) -> Result<(), Failure> {
    let answer = caller.mean(&NUMBERS).await?;
    if answer == mean(&NUMBERS) { Ok(()) } else { Err(format!("a wrong answer: {answer}").into()) }
}

async fn latency(caller: &impl Call, count: usize) -> Result<String, Failure> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        checked(caller).await?;
        times.push(began.elapsed().as_nanos());
    }
    times.sort_unstable();
    Ok(format!("{} {}", times[count / 2], times[count * 99 / 100]))
}

async fn flight(caller: &Arc<impl Call>, count: usize) -> Result<String, Failure> {
    let began = Instant::now();
    let lane = |_| {
        let caller = Arc::clone(caller);
        tokio::spawn(async move {
            for _ in 0..count / IN_FLIGHT {
                checked(&*caller).await?;
            }
            Ok::<_, Failure>(())
        })
    };
    for lane in try_join_all((0..IN_FLIGHT).map(lane)).await? {
        lane?;
    }
    let calls = (count / IN_FLIGHT * IN_FLIGHT) as f64;
    Ok(format!("{:.0}", calls / began.elapsed().as_secs_f64()))
}

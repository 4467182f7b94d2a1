//! Callers with the client of this project: it asks again by itself, so every call must be answered.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use task_host::client::{CallError, Client, Outcome, context};
use task_proto::stats::{StatsRequest, StatsResponse};
use task_proto::wire::ConnectError;

use crate::house::LIMIT;
use crate::inputs::{self, Input};
use crate::load::Caller;
use crate::tally::Fate;

/// Calls that a caller makes with one client before it makes a new one.
const CALLS: usize = 40;
/// Calls with one pipe, beside the first, at most.
const CALLS_OF_PIPE: usize = 4;
/// Calls in a row without a service after which a caller gives up: it would ask for ever.
const REFUSALS: u32 = 3;

type Ours = Client<StatsRequest, StatsResponse>;

/// A client of the service behind this socket. Whatever it asks may be asked twice.
fn client(socket: &Path, attachments: Vec<OwnedFd>) -> Ours {
    Client::at(socket, attachments, |_| true)
}

/// Asks this once, on a thread of its own.
pub(crate) fn ask_once(
    socket: &Path,
    trace_id: u128,
    request: StatsRequest,
) -> JoinHandle<Result<StatsResponse, CallError>> {
    ask_once_of(socket, Vec::new(), trace_id, request)
}

/// The same of these attachments.
pub(crate) fn ask_once_of(
    socket: &Path,
    attachments: Vec<OwnedFd>,
    trace_id: u128,
    request: StatsRequest,
) -> JoinHandle<Result<StatsResponse, CallError>> {
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            client(&socket, attachments).call(context(trace_id, Some(LIMIT)), request).await
        })
    })
}

/// Asks what the pool has, and who answers, in turn.
pub(crate) async fn ask(mut caller: Caller) {
    let mut refusals = 0;
    while !caller.seen.is_over() && refusals < REFUSALS {
        let attachments = caller.pool.attachments.iter().map(|file| file.try_clone().unwrap()).collect();
        let client = client(&caller.socket, attachments);
        for _ in 0..CALLS {
            let (input, statistic) = caller.draw();
            let pool = Arc::clone(&caller.pool);
            let input = pool.input(input);
            let request = inputs::request(statistic, input.query.clone());
            let context = context(caller.trace_id(), Some(LIMIT));
            match client.call(context, request).await {
                Ok(reply) => caller.check(input, statistic, &reply),
                Err(error) => caller.note(fate(&error), || format!("{error:?}")),
            }
            refusals = if tell_who(&mut caller, &client).await { 0 } else { refusals + 1 };
            if refusals >= REFUSALS || caller.seen.is_over() {
                break;
            }
        }
    }
}

/// Asks who answers, and writes it down; false if nobody does.
async fn tell_who(caller: &mut Caller, client: &Ours) -> bool {
    match client.call(context(caller.trace_id(), Some(LIMIT)), StatsRequest::Ping {}).await {
        Ok(StatsResponse::Ping(pong)) => {
            caller.seen.worker(caller.number, pong);
            true
        }
        Ok(reply) => {
            caller.note(Fate::Wrong, || format!("ping is answered with {reply:?}"));
            true
        }
        Err(error) => {
            let fate = fate(&error);
            caller.note(fate, || format!("ping: {error:?}"));
            !matches!(fate, Fate::Refused | Fate::Missing | Fate::Unknown)
        }
    }
}

/// The same with pipes, each for a few calls. Half of what is in a pipe comes when the first is on its way, and who reads
/// the rest without the first half answers wrong.
pub(crate) async fn ask_with_pipes(mut caller: Caller) {
    let mut refusals = 0;
    while !caller.seen.is_over() && refusals < REFUSALS {
        let (text, expected) = inputs::for_pipe(&mut caller.moments);
        let input = Input { query: inputs::attached(), expected };
        let (reader, mut writer) = std::io::pipe().unwrap();
        // All of it fits into the pipe.
        let (half, rest) = text.split_at(text.len() / 2);
        writer.write_all(half.as_bytes()).unwrap();
        let client = client(&caller.socket, vec![reader.into()]);
        let answered = tokio::join!(ask_of_pipe(&mut caller, &client, &input, Fate::Consumed), async {
            tokio::task::yield_now().await;
            writer.write_all(rest.as_bytes()).unwrap();
            drop(writer);
        });
        let mut answered = answered.0;
        for _ in 0..caller.moments.below(CALLS_OF_PIPE) {
            answered = answered && ask_of_pipe(&mut caller, &client, &input, Fate::Spent).await;
        }
        // Without the pipe, since a client is of no use whose pipe is lost.
        let client = self::client(&caller.socket, Vec::new());
        refusals = if tell_who(&mut caller, &client).await { 0 } else { refusals + 1 };
    }
}

/// One call with a pipe, whose loss means this; whether it was answered.
async fn ask_of_pipe(caller: &mut Caller, client: &Ours, input: &Input, lost: Fate) -> bool {
    let statistic = inputs::statistic(&mut caller.moments);
    let context = context(caller.trace_id(), Some(LIMIT));
    match client.call(context, inputs::request(statistic, input.query.clone())).await {
        Ok(reply) => {
            caller.check(input, statistic, &reply);
            true
        }
        Err(error) => {
            let fate = fate(&error);
            caller.note(if fate == Fate::Consumed { lost } else { fate }, || format!("{error:?}"));
            false
        }
    }
}

/// What an error says has become of the call.
fn fate(error: &CallError) -> Fate {
    match error {
        CallError::Unreachable { outcome: Outcome::NeverSent, cause: ConnectError::Missing, .. } => {
            Fate::Missing
        }
        CallError::Unreachable { outcome: Outcome::NeverSent, cause: ConnectError::Refused, .. } => {
            Fate::Refused
        }
        CallError::Unreachable { outcome: Outcome::Unknown, .. } | CallError::Lost { .. } => Fate::Unknown,
        CallError::Deadline { .. } => Fate::Late,
        CallError::InputConsumed { .. } => Fate::Consumed,
        CallError::Crashed(_) => Fate::Crashed,
        CallError::NeverSent(_) => Fate::NeverSent,
        CallError::Unreachable { .. } | CallError::Ended { .. } | CallError::Service(_) => Fate::Failed,
    }
}

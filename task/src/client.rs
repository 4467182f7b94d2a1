//! Calls that outlive the worker which executes them, of a supervisor in this process or of a service elsewhere.
//!
//! A call whose connection is lost is sent again, with its attachments, as long as that can do no harm. What the client
//! knows for certain decides: a request that never went out, or whose connection brought no greeting, was never
//! executed; for one that may have been, the method's idempotence decides, and for an input that cannot be read twice
//! the host's verdict. Nobody guesses: where nothing is known, the error says *outcome unknown*.

mod connection;
mod error;
mod loss;

mod service;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, fstat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::RequestName;
use tarpc::client::RpcError;
use tarpc::client::stub::Stub;
use tarpc::context::Context;
use tarpc::trace::{SamplingDecision, TraceId};
use task_proto::crash;
use task_proto::limits::{DRAINS, Limits, NO_DEADLINE, RESEND_PAUSE, RESEND_PAUSE_MAX, RESENDS, SLOW_CALL};
use task_proto::wire;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout_at};

use self::connection::{Connection, Message};
pub use self::error::{CallError, Outcome};
pub(crate) use self::loss::is_never_sent;
use self::loss::{Loss, Spent};
use self::service::Service;
use crate::supervisor::Supervisor;
use crate::verdict::{Death, Verdict};

/// A client of one service, over one connection at a time, with a fixed set of attachments: they have the numbers 0,
/// 1, 2… on every connection, so a request that names one can be sent again as it is.
///
/// It is tarpc's [`Stub`], so a generated client takes it: `StatsClient::from(client)`.
#[derive(Debug)]
pub struct Client<Req, Resp> {
    service: Service,
    limits: Limits,
    attachments: Vec<Arc<OwnedFd>>,
    idempotent: fn(&Req) -> bool,
    /// Every attachment can be read again from where it stands.
    rereadable: bool,
    state: Mutex<State<Req, Resp>>,
}

#[derive(Debug)]
struct State<Req, Resp> {
    connection: Option<Arc<Connection<Req, Resp>>>,
    /// What cannot be read again may have been read: no other connection may be given the rest.
    spent: Option<Spent>,
}

/// A context for a call: its trace id, and how long it may take (`None`: as long as it needs).
pub fn context(trace_id: u128, timeout: Option<Duration>) -> Context {
    let mut context = tarpc::context::current();
    context.trace_context.trace_id = TraceId::from(trace_id);
    context.deadline = Instant::now() + timeout.map_or(NO_DEADLINE, |timeout| timeout.min(NO_DEADLINE));
    context
}

impl<Req, Resp> Client<Req, Resp>
where
    Req: RequestName + Serialize + Send + Sync + 'static,
    Resp: DeserializeOwned + Send + 'static,
{
    /// A client of `supervisor`'s service with these attachments; `idempotent` says which requests may be executed
    /// twice. It connects with its first call.
    pub fn new(supervisor: &Supervisor, attachments: Vec<OwnedFd>, idempotent: fn(&Req) -> bool) -> Self {
        Client::of(Service::ours(supervisor), supervisor.limits().clone(), attachments, idempotent)
    }

    /// A client, likewise, of the service behind the socket at `path`, which another process runs. What became of a
    /// call is asked of `control.sock` beside it.
    pub fn at(path: impl Into<PathBuf>, attachments: Vec<OwnedFd>, idempotent: fn(&Req) -> bool) -> Self {
        Client::of(Service::Elsewhere(path.into()), Limits::default(), attachments, idempotent)
    }

    fn of(service: Service, limits: Limits, attachments: Vec<OwnedFd>, idempotent: fn(&Req) -> bool) -> Self {
        Client {
            service,
            limits,
            idempotent,
            rereadable: attachments.iter().all(can_be_read_again),
            attachments: attachments.into_iter().map(Arc::new).collect(),
            state: Mutex::new(State { connection: None, spent: None }),
        }
    }

    /// Calls the service; see the module for what happens when a connection is lost.
    ///
    /// # Errors
    /// [`CallError`] says why there is no reply, and whether the call may have been executed.
    pub async fn call(&self, context: Context, request: Req) -> Result<Resp, CallError> {
        let mut context = wire::clamped(context);
        // By this id it is found, wherever it is; tarpc's own contexts have none where nothing is traced.
        if context.trace_context.trace_id.is_none() {
            context.trace_context.trace_id = TraceId::from(rand::random::<u128>());
        }
        let began = Instant::now();
        let message = Arc::new(Message::new(request));
        let mut call =
            Call { client: self, context, message: &message, outcome: Outcome::NeverSent, resends: 0 };
        let answer = timeout_at(context.deadline.into(), call.answer()).await.unwrap_or(Err(None));
        let outcome = if message.was_sent() { Outcome::Unknown } else { call.outcome };
        let answer = answer.map_err(|error| error.unwrap_or(CallError::Deadline { outcome }));
        call.log(began.elapsed(), answer.as_ref().err());
        answer
    }

    /// The connection, made anew if there is none.
    async fn connected(&self, outcome: Outcome) -> Result<Arc<Connection<Req, Resp>>, CallError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok(Arc::clone(connection));
        }
        if let Some(spent) = &state.spent {
            return Err(spent.clone().into());
        }
        let connection = tokio::select! {
            biased;
            ended = self.service.ended() => return Err(CallError::Ended { outcome, ended }),
            stream = self.service.connect() => stream.and_then(|stream| {
                Ok(Connection::over(stream, &self.limits, &self.attachments)?)
            }),
        };
        let unreachable = |cause| CallError::Unreachable { outcome, path: self.service.path(), cause };
        let connection = Arc::new(connection.map_err(unreachable)?);
        state.connection = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Lets go of a connection. What cannot be read again, and may have been read, is lost with it.
    /// `unread`: the worker has read nothing of it.
    async fn lose(&self, lost: &Arc<Connection<Req, Resp>>, unread: bool) {
        let mut state = self.state.lock().await;
        if state.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, lost)) {
            state.spent = if unread { None } else { self.spent_by(lost).await };
            state.connection = None;
        }
    }

    async fn spent_by(&self, lost: &Connection<Req, Resp>) -> Option<Spent> {
        if self.rereadable {
            return None;
        }
        // Other calls on it that were not sent either learn that in the same moment.
        yield_now().await;
        let may_begin = lost.is_pending();
        if !may_begin && !lost.has_executed() {
            return None;
        }
        match lost.greeting() {
            Some(greeting) => loss::spent(self.service.verdict(greeting).await, may_begin),
            // A worker that drains takes no more before it has greeted: what was sent to it will be executed.
            None => Some(Spent::default()),
        }
    }
}

/// One call, however often it is sent.
struct Call<'a, Req, Resp> {
    client: &'a Client<Req, Resp>,
    context: Context,
    message: &'a Arc<Message<Req>>,
    /// What is known of it from the connections that are lost.
    outcome: Outcome,
    resends: u32,
}

impl<Req, Resp> Call<'_, Req, Resp>
where
    Req: RequestName + Serialize + Send + Sync + 'static,
    Resp: DeserializeOwned + Send + 'static,
{
    /// The error is `None` when the deadline has passed.
    async fn answer(&mut self) -> Result<Resp, Option<CallError>> {
        let mut times = 0;
        let mut pause = Duration::ZERO;
        loop {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let connection = self.client.connected(self.outcome).await?;
            connection.begin_use();
            let mut reply = pin!(connection.channel().call(self.context, Arc::clone(self.message)));
            let reply = tokio::select! {
                biased;
                reply = &mut reply => reply,
                // Nobody will accept what still waits in the backlog. What the last worker wrote is still read.
                _ = self.client.service.ended() => {
                    connection.end_reading();
                    reply.await
                }
            };
            let error = match reply {
                Ok(reply) => {
                    connection.end_use();
                    return Ok(reply);
                }
                Err(error) => error,
            };
            match loss::of(error, self.message.was_sent(), connection.greeting().is_some()) {
                Loss::None(error) => return Err(error),
                loss @ (Loss::NeverSent | Loss::NeverExecuted | Loss::Refused(_)) => {
                    self.message.is_to_be_sent();
                    connection.undo_use();
                    let unread = matches!(loss, Loss::NeverExecuted);
                    self.client.lose(&connection, !matches!(loss, Loss::NeverSent)).await;
                    if let Loss::Refused(why) = loss
                        && self.resends == RESENDS
                    {
                        tracing::warn!("asking again until there is room: {why}");
                    }
                    // Clients that are more than the service has room for make each other give way, for as long as
                    // each of them likes: that is no sign of a broken worker. But who is turned away again and again
                    // does not ask all the time.
                    times += u32::from(unread);
                    if self.resends > 0 && !unread || times > DRAINS {
                        pause = (pause * 2).clamp(RESEND_PAUSE, RESEND_PAUSE_MAX);
                    }
                }
                Loss::Unknown(cause) => {
                    self.outcome = Outcome::Unknown;
                    self.message.is_to_be_sent();
                    self.client.lose(&connection, false).await;
                    times += 1;
                    if !(self.client.idempotent)(self.message.request()) {
                        let death = self.death(&connection).await;
                        return Err(Some(CallError::Lost { death, cause }));
                    }
                }
            }
            self.resends += 1;
            if times > RESENDS {
                let cause = format!("it was sent {times} times, and each connection was lost");
                return Err(Some(match self.outcome {
                    Outcome::NeverSent => CallError::NeverSent(cause.into()),
                    Outcome::Unknown => CallError::Lost { death: None, cause },
                }));
            }
        }
    }

    /// How the worker died that had the call, if it did and that is known.
    async fn death(&self, lost: &Connection<Req, Resp>) -> Option<Death> {
        match self.client.service.verdict(lost.greeting()?).await {
            Verdict::Died { death, .. } => Some(death),
            Verdict::Alive { .. } | Verdict::Unknown => None,
        }
    }

    fn trace_id(&self) -> u128 {
        u128::from(*self.context.trace_id())
    }

    /// The client's line on the call, by the rule for the worker's own.
    fn log(&self, took: Duration, error: Option<&CallError>) {
        let (method, us, resends) = (self.message.request().name(), took.as_micros() as u64, self.resends);
        let trace_id = crash::TraceId(self.trace_id());
        let sampled = self.context.trace_context.sampling_decision == SamplingDecision::Sampled;
        if let Some(error) = error {
            tracing::info!(method, us, resends, %trace_id, "no answer: {error}");
        } else if sampled || took > SLOW_CALL {
            tracing::info!(method, us, resends, %trace_id, "answered");
        } else {
            tracing::debug!(method, us, resends, %trace_id, "answered");
        }
    }
}

/// The errors of [`Client::call`] travel in tarpc's own: [`CallError::from`] takes them out again.
impl<Req, Resp> Stub for Client<Req, Resp>
where
    Req: RequestName + Serialize + Send + Sync + 'static,
    Resp: DeserializeOwned + Send + 'static,
{
    type Req = Req;
    type Resp = Resp;

    async fn call(&self, context: Context, request: Req) -> Result<Resp, RpcError> {
        Client::call(self, context, request).await.map_err(|error| RpcError::Send(Box::new(error)))
    }
}

fn can_be_read_again(descriptor: impl AsFd) -> bool {
    fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests;

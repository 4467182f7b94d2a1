//! Calls to a supervised worker that outlive the worker.
//!
//! A call whose worker dies is sent again to the next generation, with its attachments, as long as that can do
//! no harm: a request that is not idempotent is sent again only if it never left, and an attachment that cannot be
//! read twice and may have been begun ends the call as [`CallError::InputConsumed`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, fstat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::client::stub::Stub;
use tarpc::client::{Channel, Config, RpcError};
use tarpc::context::Context;
use tarpc::trace::TraceId;
use tarpc::{RequestName, ServerError};
use task_proto::limits::{DEATH_NOTICE, Limits, NO_DEADLINE, RESENDS, SLOTS};
use task_proto::scoreboard::Snapshot;
use task_proto::wire::{self, FdStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::socket::Socket;
use crate::supervisor::{Ended, PostMortem, ServicePhase, Status, Supervisor};

/// A client of one supervised service, over one connection at a time, with a fixed set of attachments: they have
/// the numbers 0, 1, 2… on every connection, so a request that names one can be sent again as it is.
///
/// It is tarpc's [`Stub`], so a generated client takes it: `StatsClient::from(client)`.
#[derive(Debug)]
pub struct Client<Req, Resp> {
    socket: Arc<Socket>,
    status: watch::Receiver<Status>,
    limits: Limits,
    attachments: Vec<Arc<OwnedFd>>,
    idempotent: fn(&Req) -> bool,
    /// Every attachment can be read again from where it stands.
    rereadable: bool,
    /// A call has come to its end, so what cannot be read again may have been read.
    begun: AtomicBool,
    connection: Mutex<Option<Arc<Connection<Req, Resp>>>>,
}

#[derive(Debug)]
struct Connection<Req, Resp> {
    channel: Channel<Arc<Req>, Resp>,
    /// How many workers had died when it was made. Any that served since may have accepted it.
    died: u64,
    dispatch: JoinHandle<()>,
}

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Its deadline passed.
    #[error("no answer within the deadline")]
    Deadline,
    /// The worker died after it began to read input that cannot be read again. Nothing of the rest was used.
    #[error("the input cannot be read again: {bytes} bytes of it had been read when {death}")]
    InputConsumed {
        /// How many bytes had been read.
        bytes: u64,
        /// How the worker died.
        death: Arc<PostMortem>,
    },
    /// The service is gone and will not come back.
    #[error("{0}")]
    Ended(Ended),
    /// The request was not sent.
    #[error("the request was never sent: {0}")]
    NeverSent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection closed though the worker lives; whether the call was executed is unknown.
    #[error("the connection closed before the answer came, outcome unknown: {0}")]
    Lost(#[source] RpcError),
    /// The service failed outside its method: a panic, a reply over the limit.
    #[error("the service failed: {}", .0.detail)]
    Service(ServerError),
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
        Client {
            socket: Arc::clone(supervisor.socket()),
            status: supervisor.status(),
            limits: supervisor.limits().clone(),
            idempotent,
            rereadable: attachments.iter().all(can_be_read_again),
            attachments: attachments.into_iter().map(Arc::new).collect(),
            begun: AtomicBool::new(false),
            connection: Mutex::new(None),
        }
    }

    /// Calls the service; see the module for what happens when its worker dies.
    ///
    /// # Errors
    /// [`CallError`] says why there is no reply, and whether the call may have been executed.
    pub async fn call(&self, context: Context, request: Req) -> Result<Resp, CallError> {
        let context = wire::clamped(context);
        let trace_id = u128::from(*context.trace_id());
        let request = Arc::new(request);
        let mut status = self.status.clone();
        let mut resends = 0;
        loop {
            let connection = self.connected(context.deadline).await?;
            // However this call ends, or is dropped: from here on its input may be in use.
            let used = Used(&self.begun, true);
            let reply = tokio::select! {
                biased;
                reply = connection.channel.call(context, Arc::clone(&request)) => reply,
                // Nobody will accept what still waits in the backlog.
                _ = status.wait_for(Status::is_ended) => Err(RpcError::Shutdown),
            };
            let lost = match reply {
                Ok(reply) => return Ok(reply),
                Err(RpcError::DeadlineExceeded) => return Err(CallError::Deadline),
                Err(RpcError::Send(error)) if !is_broken_pipe(error.as_ref()) => {
                    return Err(CallError::NeverSent(error));
                }
                // The transport's word for a request that was not written whole.
                Err(lost @ RpcError::Server(ServerError { kind: io::ErrorKind::BrokenPipe, .. })) => lost,
                Err(RpcError::Server(error)) => return Err(CallError::Service(error)),
                Err(lost) => lost,
            };
            let never_sent = matches!(lost, RpcError::Send(_) | RpcError::Server(_));
            self.forget(&connection).await;
            used.unless_proven();
            if !self.rereadable && !never_sent && !self.is_untouched(&connection, trace_id).await? {
                return Err(CallError::Lost(lost));
            }
            if let ServicePhase::Ended(ended) = &self.status.borrow().phase {
                return Err(CallError::Ended(ended.clone()));
            }
            resends += 1;
            if resends > RESENDS || !(never_sent || (self.idempotent)(&request)) {
                return Err(CallError::Lost(lost));
            }
        }
    }

    /// After a lost connection with input that cannot be read again: whether a worker's death explains the loss
    /// and its scoreboard, like that of whoever serves since, proves that nothing was read.
    async fn is_untouched(
        &self,
        connection: &Connection<Req, Resp>,
        trace_id: u128,
    ) -> Result<bool, CallError> {
        let mut status = self.status.clone();
        let died = |status: &Status| status.is_ended() || status.died > connection.died;
        if timeout(DEATH_NOTICE, status.wait_for(died)).await.is_err() {
            return Ok(false);
        }
        // A worker that starts may have accepted the connection before the news of it came here. The supervisor
        // limits how long a start takes.
        let Ok(now) = status.wait_for(Status::is_settled).await.map(|now| now.clone()) else {
            return Ok(false);
        };
        let since = usize::try_from(now.died - connection.died).unwrap_or(usize::MAX);
        if self.begun.load(Ordering::Relaxed) || since > now.deaths.len() {
            let Some(death) = now.deaths.last() else { return Ok(false) };
            return Err(CallError::InputConsumed { bytes: 0, death: Arc::clone(death) });
        }
        for death in now.deaths.iter().rev().take(since) {
            if let Some(bytes) = consumed(death.scoreboard.as_ref(), trace_id) {
                return Err(CallError::InputConsumed { bytes, death: Arc::clone(death) });
            }
        }
        Ok(match &now.phase {
            ServicePhase::Serving { board, .. } => consumed(board.read().ok().as_ref(), trace_id).is_none(),
            _ => true,
        })
    }

    async fn forget(&self, lost: &Arc<Connection<Req, Resp>>) {
        let mut current = self.connection.lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, lost)) {
            *current = None;
        }
    }

    /// The connection, made anew to the worker that serves if there is none.
    async fn connected(&self, deadline: Instant) -> Result<Arc<Connection<Req, Resp>>, CallError> {
        let connecting = async {
            let mut current = self.connection.lock().await;
            if let Some(connection) = &*current {
                return Ok(Arc::clone(connection));
            }
            let died = self.serving().await?;
            let stream = self.socket.connect().await.map_err(never_sent)?;
            // A worker sends no descriptors.
            let transport = wire::client(FdStream::new(stream, 0), &self.limits);
            for attachment in &self.attachments {
                transport.outgoing().push(Arc::clone(attachment));
            }
            let client = tarpc::client::new(Config::default(), transport);
            let dispatch = tokio::spawn(async move {
                if let Err(error) = client.dispatch.await {
                    tracing::debug!("connection: {error}");
                }
            });
            let connection = Arc::new(Connection { channel: client.client, died, dispatch });
            *current = Some(Arc::clone(&connection));
            Ok(connection)
        };
        tokio::time::timeout_at(deadline.into(), connecting).await.unwrap_or(Err(CallError::Deadline))
    }

    /// Waits for a worker that serves: how many had died before it.
    async fn serving(&self) -> Result<u64, CallError> {
        let mut status = self.status.clone();
        let Ok(now) = status.wait_for(Status::is_settled).await.map(|now| now.clone()) else {
            return Err(CallError::Ended(Ended::Stopped));
        };
        match now.phase {
            ServicePhase::Ended(ended) => Err(CallError::Ended(ended)),
            _ => Ok(now.died),
        }
    }
}

/// Marks input as begun when it is dropped.
struct Used<'a>(&'a AtomicBool, bool);

impl Used<'_> {
    /// This call's worker died: its scoreboard decides.
    fn unless_proven(mut self) {
        self.1 = false;
    }
}

impl Drop for Used<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(self.1, Ordering::Relaxed);
    }
}

impl<Req, Resp> Drop for Connection<Req, Resp> {
    fn drop(&mut self) {
        self.dispatch.abort();
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

impl From<RpcError> for CallError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Send(error) => {
                error.downcast::<CallError>().map_or_else(CallError::NeverSent, |error| *error)
            }
            RpcError::DeadlineExceeded => CallError::Deadline,
            RpcError::Server(error) => CallError::Service(error),
            RpcError::Shutdown | RpcError::Channel(_) => CallError::Lost(error),
        }
    }
}

/// How many bytes of its input a call had read, as far as a scoreboard shows; `None` where it proves that there were
/// none.
fn consumed(scoreboard: Option<&Snapshot>, trace_id: u128) -> Option<u64> {
    let Some(scoreboard) = scoreboard else {
        return Some(0);
    };
    let begun = scoreboard.calls.iter().filter(|call| call.trace_id == trace_id && call.consuming);
    let bytes = begun.map(|call| call.consumed).max();
    bytes.or_else(|| (scoreboard.calls.len() >= SLOTS).then_some(0))
}

fn can_be_read_again(descriptor: impl AsFd) -> bool {
    fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn is_broken_pipe(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn never_sent(error: io::Error) -> CallError {
    CallError::NeverSent(Box::new(error))
}

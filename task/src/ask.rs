//! Asking the service, whoever runs it, and telling the answer: what a one-shot run and `task call` share.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tarpc::client::RpcError;
use tarpc::context::Context;
use tarpc::trace::SamplingDecision;
use task_host::client::{self, CallError, Client, Outcome};
use task_host::supervisor::Ended;
use task_proto::crash::{Crash, TraceId};
use task_proto::fault::Fault;
use task_proto::limits::NO_DEADLINE;
use task_proto::stats::{Query, Source, StatsClient, StatsRequest, StatsResponse};
use task_proto::wire::ConnectError;

use crate::answer::Answer;
use crate::args::{Asking, Only, Verbosity};
use crate::exit::{self, CallKind, Failure, Found};
use crate::inputs::{self, Inputs};
use crate::prompt::Prompt;
use crate::wording;

/// The service, asked through connections that outlive its worker.
pub type Stats = StatsClient<Client<StatsRequest, StatsResponse>>;

/// Whom to ask for what, and how to tell it.
pub struct Asker<'a, C> {
    /// What was asked for.
    pub asking: &'a Asking,
    /// The one statistic that is wanted; all three otherwise.
    pub only: Option<Only>,
    /// Whether the calls are to be found in the log, and their trace id is shown.
    pub traced: bool,
    /// Whether somebody else runs the service: then its reply is the answer's JSON, and a call without an answer
    /// may yet be executed.
    pub elsewhere: bool,
    /// A client of the service, with these attachments.
    pub client: C,
}

impl<C: Fn(Vec<OwnedFd>) -> Client<StatsRequest, StatsResponse>> Asker<'_, C> {
    /// Asks for the statistics of these inputs, and prints them; what tells of the waiting is dropped before that.
    pub async fn answer(
        &self,
        inputs: Inputs,
        context: Context,
        meanwhile: impl Future<Output = Infallible>,
    ) -> Result<(), Failure> {
        let stats = (self.client)(inputs.attachments).into();
        let answer = tokio::select! {
            biased;
            answer = self.ask(&stats, context, &inputs.query) => answer,
            never = meanwhile => match never {},
        };
        let answer = answer.map_err(|error| {
            failure(self.asking, self.elsewhere, &inputs.query.sources, &inputs.names, error)
        })?;
        self.tell(&answer, &inputs.names, &inputs.huge).await
    }

    /// An answer for each line, until Ctrl-D. A line that is at fault is reported, and the prompt returns.
    pub async fn prompt(&self) -> Result<(), Failure> {
        let mut prompt = Prompt::start(self.only).map_err(unusual)?;
        while let Some(line) = prompt.next_line().await {
            let (context, _) = context(self.asking, self.traced);
            let answered = async {
                self.answer(inputs::from_line(&line?, self.asking.missing)?, context, pending()).await
            };
            match answered.await {
                Err(failure @ (Failure::Fault { .. } | Failure::Input { .. } | Failure::Deadline { .. })) => {
                    let said = if self.asking.json { failure.json() } else { failure.text() };
                    write(move || exit::say(&said)).await?;
                }
                ended => ended?,
            }
        }
        Ok(())
    }

    /// Makes the calls that the answer needs, all at once on one connection.
    async fn ask(&self, stats: &Stats, context: Context, query: &Query) -> Result<Answer, AskError> {
        let (mean, median, mode) = (
            || Box::pin(call(stats.mean(context, query.clone()))),
            || Box::pin(call(stats.median(context, query.clone()))),
            || Box::pin(call(stats.mode(context, query.clone()))),
        );
        Ok(match self.only {
            None => {
                // All three to their ends: a connection that closes on replies looks to the worker like a client that died.
                let (mean, median, mode) = tokio::join!(mean(), median(), mode());
                Answer::All(mean?, median?, mode?)
            }
            Some(Only::Mean) => Answer::Mean(mean().await?),
            Some(Only::Median) => Answer::Median(median().await?),
            Some(Only::Mode) => Answer::Mode(mode().await?),
        })
    }

    async fn tell(
        &self,
        answer: &Answer,
        names: &[String],
        huge: &[(usize, exit::Place)],
    ) -> Result<(), Failure> {
        let quiet = self.asking.verbosity == Verbosity::Quiet;
        let notes = if quiet { Vec::new() } else { answer.notes(names, huge) };
        let text = match (self.asking.json, self.elsewhere) {
            (true, true) => answer.reply().map_err(unusual)?,
            (true, false) => answer.json().map_err(unusual)?,
            (false, _) => answer.text(),
        };
        write(move || {
            for note in notes {
                exit::say(&format!("task: {note}"));
            }
            exit::print(&text)
        })
        .await?
    }
}

/// The context of a call, under a trace id of its own.
pub fn context(asking: &Asking, traced: bool) -> (Context, TraceId) {
    let trace_id = TraceId(rand::random());
    let mut context = client::context(trace_id.0, asking.timeout);
    if traced {
        context.trace_context.sampling_decision = SamplingDecision::Sampled;
        tracing::info!(%trace_id, "calling");
    }
    (context, trace_id)
}

/// Why there is no answer.
pub enum AskError {
    /// The call has no reply.
    Call(CallError),
    /// The reply is a fault.
    Fault(Fault),
}

async fn call<T>(reply: impl Future<Output = Result<Result<T, Fault>, RpcError>>) -> Result<T, AskError> {
    reply.await.map_err(|error| AskError::Call(error.into()))?.map_err(AskError::Fault)
}

/// Writes on another thread: whoever does not read must not keep signals from being heard.
pub async fn write<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(what).await.map_err(unusual)
}

/// Whether people are told what goes on. A program gets its JSON, and nothing beside the one line of a failure.
pub fn notes(asking: &Asking) -> bool {
    match asking.verbosity {
        Verbosity::Quiet => false,
        Verbosity::Normal => !asking.json,
        Verbosity::Verbose | Verbosity::Debug => true,
    }
}

/// What a call without an answer is to the user who asked for it, of these inputs with their names.
pub fn failure(
    asking: &Asking,
    elsewhere: bool,
    sources: &[Source],
    names: &[String],
    error: AskError,
) -> Failure {
    match error {
        AskError::Fault(fault) => {
            let fault = if elsewhere { fault } else { wording::fault_of_own(fault) };
            Failure::from_fault(fault, sources, names)
        }
        AskError::Call(CallError::Deadline { outcome }) => Failure::Deadline {
            limit: asking.timeout.unwrap_or(NO_DEADLINE),
            outcome: elsewhere.then_some(outcome),
        },
        AskError::Call(CallError::InputConsumed { bytes, death }) => {
            Failure::InputConsumed { bytes, cause: death.map(|death| death.cause) }
        }
        AskError::Call(CallError::Ended { ended, .. }) => ended_failure(asking, &ended),
        AskError::Call(CallError::Crashed(Crash { cause, generation, stderr_tail })) => {
            Failure::Crashed { cause, generation, stderr: stderr_tail }
        }
        AskError::Call(CallError::Unreachable { outcome: Outcome::NeverSent, path, cause }) => {
            unreachable(path, &cause)
        }
        AskError::Call(error @ (CallError::Unreachable { .. } | CallError::Lost { .. })) => {
            Failure::Call { kind: CallKind::OutcomeUnknown, message: error.to_string() }
        }
        AskError::Call(error @ CallError::NeverSent(_)) => {
            Failure::Call { kind: CallKind::NeverSent, message: error.to_string() }
        }
        AskError::Call(error @ CallError::Service(_)) => Failure::Internal(error.to_string()),
    }
}

/// A service that was not even reached.
pub fn unreachable(place: PathBuf, cause: &ConnectError) -> Failure {
    let kind = match cause {
        ConnectError::Missing => return Failure::NoService { place, found: Found::Nothing },
        ConnectError::Refused => return Failure::NoService { place, found: Found::DeadSocket },
        ConnectError::Full => CallKind::BacklogFull,
        ConnectError::Denied => CallKind::PermissionDenied,
        ConnectError::NoSocket => CallKind::NoSocket,
        ConnectError::Other(_) => CallKind::NeverSent,
    };
    Failure::Call { kind, message: format!("never sent: {}: {cause}", place.display()) }
}

/// There is no worker, and none will come.
pub fn ended_failure(asking: &Asking, ended: &Ended) -> Failure {
    // What a worker writes to stderr is on the screen already, unless nobody was to see it.
    let unseen = |tail: &[String]| {
        if asking.json || asking.verbosity == Verbosity::Quiet { tail.to_vec() } else { Vec::new() }
    };
    match ended {
        Ended::StartFailed(failure) => Failure::CannotStart {
            program: failure.program.clone(),
            reason: failure.fault.to_string(),
            stderr: unseen(&failure.stderr_tail),
        },
        Ended::Died(death) => Failure::Crashed {
            cause: death.cause.to_string(),
            generation: death.generation,
            stderr: unseen(&death.stderr_tail),
        },
        Ended::Stopped => Failure::Internal(ended.to_string()),
    }
}

/// What always works has failed.
pub fn unusual(error: impl std::error::Error) -> Failure {
    Failure::Internal(error.to_string())
}

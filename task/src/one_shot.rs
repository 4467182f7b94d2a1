//! The life of a one-shot run: a worker started for one query (or for a prompt), asked, and removed with everything
//! it left, whatever happens in between.

use std::future::Future;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tarpc::client::RpcError;
use task_host::client::{self, CallError, Client, Outcome};
use task_host::journal::Journal;
use task_host::record::Level;
use task_host::run_dir::{Base, RunDir, SOCKET};
use task_host::screen::Screen;
use task_host::socket::Socket;
use task_host::spawn::WorkerSpec;
use task_host::store::{RUNS, Store};
use task_host::supervisor::{Ended, Policy, Supervisor};
use task_proto::crash::Crash;
use task_proto::fault::Fault;
use task_proto::limits::{IDLE_STDIN_NOTE, Limits};
use task_proto::stats::{StatsClient, StatsRequest, StatsResponse};
use task_proto::wire::ConnectError;
use tokio::time::sleep;
use tracing_subscriber::layer::SubscriberExt;

use crate::answer::Answer;
use crate::args::{Config, Only, Verbosity};
use crate::exit::{self, CallKind, Failure};
use crate::inputs::{self, Input, READING_STDIN, SAMPLE_NOTE};
use crate::prompt::Prompt;
use crate::signals::{self, Signal, Signals};

/// The service, asked through a connection that outlives its worker.
type Stats = StatsClient<Client<StatsRequest, StatsResponse>>;

/// Runs to the end: the answer printed, nothing left behind.
pub fn run(config: &Config) -> Result<(), Failure> {
    signals::outlive_size_limit().map_err(unusual)?;
    let input = inputs::gather(&config.words, config.missing, rustix::stdio::stdin())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusual)?;
    let ended = runtime.block_on(live(config, input));
    // A write that nobody reads may still be going on.
    runtime.shutdown_background();
    ended
}

async fn live(config: &Config, input: Input) -> Result<(), Failure> {
    // Before anything is there to be cleaned: a signal in between would leave it.
    let mut signals = Signals::register().map_err(unusual)?;
    let base =
        Base::open(config.runtime_dir.as_deref()).map_err(|error| Failure::RuntimeDir(error.to_string()))?;
    base.sweep();
    let run_dir = RunDir::create(base).map_err(|error| Failure::RuntimeDir(error.to_string()))?;
    let journal = Journal::new(run_dir.run(), screen(config, &input));
    // It is set once in a process, here.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(journal.layer()));
    let ended = served(config, input, &run_dir, &journal, &mut signals).await;
    // For the log: on the screen the failure is the last word.
    if let Err(failure) = &ended
        && !matches!(failure, Failure::Signal(_) | Failure::ClosedOutput)
    {
        tracing::info!(kind = failure.kind(), "failed: {}", failure.text());
    }
    if let Err(error) = run_dir.remove() {
        tracing::warn!("{error}");
    }
    keep(&journal);
    match signals.over() {
        Some(signal) => ended.and(Err(Failure::Signal(signal))),
        None => ended,
    }
}

/// Appends the run to the log. A log that cannot be written costs a warning, never the answer.
fn keep(journal: &Journal) {
    let kept = Store::locate().and_then(|store| store.append(RUNS, &journal.take()));
    if let Err(error) = kept {
        tracing::warn!("this run is not in the log: {error}");
    }
}

async fn served(
    config: &Config,
    input: Input,
    run_dir: &RunDir,
    journal: &Journal,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let socket = Socket::bind(run_dir.fd(), &run_dir.path(), SOCKET).map_err(|error| {
        Failure::RuntimeDir(format!("cannot listen in {}: {error}", run_dir.path().display()))
    })?;
    let supervisor = Supervisor::start(worker(config, &input), socket, Policy::RUN, journal.clone());
    let ended = tokio::select! {
        biased;
        signal = signals.next() => Err(Failure::Signal(signal)),
        ended = answered(config, input, &supervisor) => ended,
    };
    stopped(&supervisor, signals, ended).await
}

/// Stops the worker. A signal that comes meanwhile is what ends this run; the second one ends the waiting too.
async fn stopped(
    supervisor: &Supervisor,
    signals: &mut Signals,
    mut ended: Result<(), Failure>,
) -> Result<(), Failure> {
    if matches!(ended, Err(Failure::Signal(Signal::Quit))) {
        supervisor.stop_now();
    }
    let mut stop = std::pin::pin!(supervisor.stop());
    loop {
        tokio::select! {
            _ = &mut stop => return ended,
            signal = signals.next() => {
                if matches!(ended, Err(Failure::Signal(_))) || signal == Signal::Quit {
                    supervisor.stop_now();
                }
                ended = ended.and(Err(Failure::Signal(signal)));
            }
        }
    }
}

async fn answered(config: &Config, input: Input, supervisor: &Supervisor) -> Result<(), Failure> {
    match input {
        Input::Prompt => prompted(config, supervisor).await,
        Input::Given(inputs) => {
            if inputs.sample && notes(config) {
                supervisor.ready().await.map_err(|ended| ended_failure(config, &ended))?;
                write(|| exit::say(SAMPLE_NOTE)).await?;
            }
            let note = idle_note(config, supervisor, inputs.reads_stdin);
            let stats = Client::new(supervisor, inputs.attachments, |_| true).into();
            let answer = tokio::select! {
                answer = ask(config, &stats, &inputs.query, &inputs.names) => answer?,
                never = note => match never {},
            };
            tell(config, &answer).await
        }
    }
}

/// An answer for each line, until Ctrl-D. A line that is at fault is reported, and the prompt returns.
async fn prompted(config: &Config, supervisor: &Supervisor) -> Result<(), Failure> {
    supervisor.ready().await.map_err(|ended| ended_failure(config, &ended))?;
    let mut prompt = Prompt::start().map_err(unusual)?;
    while let Some(line) = prompt.next_line().await {
        match reply(config, supervisor, line).await {
            Err(failure @ (Failure::Fault { .. } | Failure::Input { .. } | Failure::Deadline { .. })) => {
                let said = if config.json { failure.json() } else { failure.text() };
                write(move || exit::say(&said)).await?;
            }
            ended => ended?,
        }
    }
    Ok(())
}

async fn reply(
    config: &Config,
    supervisor: &Supervisor,
    line: Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    let inputs = inputs::from_line(&line?, config.missing)?;
    let stats = Client::new(supervisor, inputs.attachments, |_| true).into();
    tell(config, &ask(config, &stats, &inputs.query, &inputs.names).await?).await
}

/// Makes the calls that the answer needs, all at once on one connection.
async fn ask(
    config: &Config,
    stats: &Stats,
    query: &task_proto::stats::Query,
    names: &[String],
) -> Result<Answer, Failure> {
    let context = client::context(rand::random(), config.timeout);
    let failed = |error| failure(config, names, error);
    let (mean, median, mode) = (
        || Box::pin(call(stats.mean(context, query.clone()))),
        || Box::pin(call(stats.median(context, query.clone()))),
        || Box::pin(call(stats.mode(context, query.clone()))),
    );
    Ok(match config.only {
        None => {
            // All three to their ends: a connection that closes on replies looks to the worker like a client that died.
            let (mean, median, mode) = tokio::join!(mean(), median(), mode());
            let answered = || Ok(Answer::All(mean?, median?, mode?));
            answered().map_err(failed)?
        }
        Some(Only::Mean) => Answer::Mean(mean().await.map_err(failed)?),
        Some(Only::Median) => Answer::Median(median().await.map_err(failed)?),
        Some(Only::Mode) => Answer::Mode(mode().await.map_err(failed)?),
    })
}

enum AskError {
    Call(CallError),
    Fault(Fault),
}

async fn call<T>(reply: impl Future<Output = Result<Result<T, Fault>, RpcError>>) -> Result<T, AskError> {
    reply.await.map_err(|error| AskError::Call(error.into()))?.map_err(AskError::Fault)
}

async fn tell(config: &Config, answer: &Answer) -> Result<(), Failure> {
    let notes = if config.verbosity == Verbosity::Quiet { Vec::new() } else { answer.notes() };
    let text = if config.json { answer.json().map_err(unusual)? } else { answer.text() };
    write(move || {
        for note in notes {
            exit::say(&format!("task: {note}"));
        }
        exit::print(&text)
    })
    .await?
}

/// Writes on another thread: whoever does not read must not keep signals from being heard.
async fn write<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(what).await.map_err(unusual)
}

/// Whether people are told what goes on. A program gets its JSON, and nothing beside the one line of a failure.
fn notes(config: &Config) -> bool {
    match config.verbosity {
        Verbosity::Quiet => false,
        Verbosity::Normal => !config.json,
        Verbosity::Verbose | Verbosity::Debug => true,
    }
}

/// Says that standard input is being read when that keeps somebody waiting; never returns.
async fn idle_note(config: &Config, supervisor: &Supervisor, reads_stdin: bool) -> std::convert::Infallible {
    if reads_stdin && notes(config) {
        sleep(IDLE_STDIN_NOTE).await;
        if !has_read(supervisor) && stdin_is_idle() {
            let _ = write(|| exit::say(&format!("task: {READING_STDIN}"))).await;
        }
    }
    std::future::pending().await
}

fn has_read(supervisor: &Supervisor) -> bool {
    supervisor.scoreboard().is_some_and(|board| board.calls.iter().any(|call| call.consumed > 0))
}

fn stdin_is_idle() -> bool {
    let stdin = rustix::stdio::stdin();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&now)) == Ok(0)
}

fn worker(config: &Config, input: &Input) -> WorkerSpec {
    let attachments = match input {
        Input::Prompt => 0,
        Input::Given(inputs) => inputs.attachments.len(),
    };
    let defaults = Limits::default();
    let limits = Limits {
        attachments: attachments.max(defaults.attachments),
        memory: config.memory,
        // Whoever pipes into a run of their own knows how long that takes.
        input_idle: None,
        ..defaults
    };
    let level = if config.verbosity == Verbosity::Debug { "debug" } else { "info" };
    WorkerSpec::new(&config.rpc_bin).with_limits(limits).env("TASK_LOG", level)
}

/// The lifecycle shows where there is no data to be piped on; with data only warnings do, so cron stays silent.
fn screen(config: &Config, input: &Input) -> Screen {
    let given = matches!(input, Input::Given(inputs) if !inputs.sample);
    let on =
        |minimum| Screen::new(minimum, config.color.on(rustix::termios::isatty(rustix::stdio::stderr())));
    match config.verbosity {
        // Nothing beside the one line of JSON that a failure is.
        Verbosity::Normal | Verbosity::Quiet if config.json => Screen::on(None, Level::Error, false),
        Verbosity::Quiet => on(Level::Error),
        Verbosity::Normal if given => on(Level::Warn).without_calls(),
        Verbosity::Normal => on(Level::Info).without_calls(),
        Verbosity::Verbose => on(Level::Info),
        Verbosity::Debug => on(Level::Debug),
    }
}

fn failure(config: &Config, names: &[String], error: AskError) -> Failure {
    match error {
        AskError::Fault(fault) => Failure::from_fault(fault, names),
        AskError::Call(CallError::Deadline { .. }) => {
            Failure::Deadline { limit: config.timeout.unwrap_or(task_proto::limits::NO_DEADLINE) }
        }
        AskError::Call(CallError::InputConsumed { bytes, death }) => {
            Failure::InputConsumed { bytes, cause: death.map(|death| death.cause) }
        }
        AskError::Call(CallError::Ended { ended, .. }) => ended_failure(config, &ended),
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
fn unreachable(place: PathBuf, cause: &ConnectError) -> Failure {
    let kind = match cause {
        ConnectError::Missing | ConnectError::Refused => return Failure::NoService { place },
        ConnectError::Full => CallKind::BacklogFull,
        ConnectError::Denied => CallKind::PermissionDenied,
        ConnectError::NoSocket => CallKind::NoSocket,
        ConnectError::Other(_) => CallKind::NeverSent,
    };
    Failure::Call { kind, message: format!("never sent: {}: {cause}", place.display()) }
}

fn ended_failure(config: &Config, ended: &Ended) -> Failure {
    // What a worker writes to stderr is on the screen already, unless nobody was to see it.
    let unseen = |tail: &[String]| {
        if config.json || config.verbosity == Verbosity::Quiet { tail.to_vec() } else { Vec::new() }
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

fn unusual(error: impl std::error::Error) -> Failure {
    Failure::Internal(error.to_string())
}

//! The life of a one-shot run: a worker started for one query (or for a prompt), asked, and removed with everything
//! it left, whatever happens in between.

use task_host::client::Client;
use task_host::journal::Journal;
use task_host::run_dir::{Base, RunDir, SOCKET};
use task_host::socket::Socket;
use task_host::spawn::WorkerSpec;
use task_host::supervisor::{Restart, Supervisor};
use task_proto::limits::Limits;

use crate::args::{Config, Verbosity};
use crate::ask::{self, Asker, ended_failure, unusual};
use crate::exit::{self, Failure};
use crate::inputs::{self, Input, SAMPLE_NOTE};
use crate::progress::Wait;
use crate::run;
use crate::signals::{self, Signal, Signals};

/// Runs to the end: the answer printed, nothing left behind.
pub fn run(config: &Config) -> Result<(), Failure> {
    signals::outlive_size_limit().map_err(unusual)?;
    let input =
        inputs::gather(&config.words, config.asking.format, config.asking.missing, rustix::stdio::stdin())?;
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
    let data = matches!(&input, Input::Given(inputs) if !inputs.sample);
    let journal = run::journal(run_dir.run(), run::screen(&config.asking, data));
    let ended = served(config, input, &run_dir, &journal, &mut signals).await;
    run::end(ended, &journal, signals, || {
        if let Err(error) = run_dir.remove() {
            tracing::warn!("{error}");
        }
    })
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
    let supervisor = Supervisor::start(worker(config, &input), socket, Restart::RUN, journal.clone());
    let ended = tokio::select! {
        biased;
        signal = signals.next() => Err(Failure::Signal(signal)),
        ended = answered(config, input, &supervisor, journal) => ended,
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

async fn answered(
    config: &Config,
    input: Input,
    supervisor: &Supervisor,
    journal: &Journal,
) -> Result<(), Failure> {
    let asking = &config.asking;
    let asker = Asker {
        asking,
        only: config.only,
        traced: false,
        elsewhere: false,
        client: |attachments| Client::new(supervisor, attachments, |_| true),
    };
    let ready = async || supervisor.ready().await.map_err(|ended| ended_failure(asking, &ended));
    match input {
        Input::Prompt => {
            ready().await?;
            asker.prompt().await
        }
        Input::Given(inputs) => {
            if inputs.sample && asking.verbosity > Verbosity::Quiet {
                // A program hears of it, too: nobody is to take it for an answer about their own data.
                if ask::notes(asking) {
                    ready().await?;
                }
                ask::write(|| exit::say(SAMPLE_NOTE)).await?;
            }
            let (reads_stdin, size) = (inputs.reads_stdin, inputs.size());
            let (context, trace_id) = ask::context(asking, false);
            let reading = async || supervisor.reading(trace_id);
            let wait = Wait { asking, journal, reads_stdin, size, reading };
            asker.answer(inputs, context, wait.tell()).await
        }
    }
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
    let level = if config.asking.verbosity == Verbosity::Debug { "debug" } else { "info" };
    let spec = WorkerSpec::new(&config.rpc_bin).with_limits(limits).with_sandbox(config.sandbox);
    run::computing(spec.env("TASK_LOG", level))
}

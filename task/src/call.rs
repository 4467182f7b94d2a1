//! `task call`: a running service asked, with the inputs and the output of a one-shot run.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use task_host::client::{CallError, Client};
use task_host::control::{CONTROL_SOCKET, Caller, State};
use task_host::journal::Journal;
use task_host::run_dir::{Base, SOCKET};
use task_proto::limits::Limits;
use task_proto::stats::Pong;

use crate::args::{Asking, CallConfig, Only, Verbosity};
use crate::ask::{self, AskError, Asker, Stats, unusual};
use crate::exit::{self, Failure, Found, InputKind, Place};
use crate::inputs::{self, Input, Inputs};
use crate::progress::Wait;
use crate::run;
use crate::signals::{self, Signals};

/// Asks, and prints the answer.
pub fn run(config: &CallConfig) -> Result<(), Failure> {
    signals::outlive_size_limit().map_err(unusual)?;
    let wanted = match config.only {
        Some(only) => {
            let input = inputs::gather(
                &config.words,
                config.asking.format,
                config.asking.missing,
                rustix::stdio::stdin(),
            )?;
            Wanted::For(only, few(input)?)
        }
        None if config.words.is_empty() => Wanted::Ping,
        None => return Err(misused("ping takes no INPUT")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusual)?;
    let ended = runtime.block_on(live(config, wanted));
    // A write that nobody reads may still be going on.
    runtime.shutdown_background();
    ended
}

fn misused(message: &str) -> Failure {
    Failure::CommandUsage { command: "call".to_owned(), message: message.to_owned() }
}

/// What a service is asked.
enum Wanted {
    Ping,
    For(Only, Input),
}

/// The input, if a service takes so many descriptors: a run of one's own has no such limit.
fn few(input: Input) -> Result<Input, Failure> {
    let limit = Limits::default().attachments;
    match &input {
        Input::Given(Inputs { attachments, .. }) if attachments.len() > limit => Err(Failure::Input {
            kind: InputKind::TooLarge,
            message: format!("a service takes {limit} files at once; join them: cat FILE… | task call …"),
            place: Place::default(),
        }),
        _ => Ok(input),
    }
}

async fn live(config: &CallConfig, wanted: Wanted) -> Result<(), Failure> {
    let mut signals = Signals::register().map_err(unusual)?;
    // There is no lifecycle of a worker to be shown.
    let screen = run::screen(&config.asking, true);
    let journal = run::journal(&format!("{:08x}", rand::random::<u32>()), screen);
    let ended = tokio::select! {
        biased;
        signal = signals.next() => Err(Failure::Signal(signal)),
        answered = told(config, wanted, &journal) => answered,
    };
    run::end(ended, &journal, signals, || ())
}

/// Asks. Where nobody takes calls there may still be the host of a service that is stopping.
async fn told(config: &CallConfig, wanted: Wanted, journal: &Journal) -> Result<(), Failure> {
    let mut answered = answered(config, wanted, journal).await;
    if let Err(Failure::NoService { place, found }) = &mut answered
        && let Ok(report) =
            Caller::ask(place.with_file_name(CONTROL_SOCKET), true, async |host| host.status().await).await
        && report.state == State::Stopping
    {
        *found = Found::Stopping;
    }
    answered
}

async fn answered(config: &CallConfig, wanted: Wanted, journal: &Journal) -> Result<(), Failure> {
    let (asking, socket) = (&config.asking, socket(config)?);
    let traced = asking.verbosity >= Verbosity::Verbose;
    let client = |attachments| Client::at(&socket, attachments, |_| true);
    let stats = client(Vec::new()).into();
    match wanted {
        Wanted::Ping => {
            let began = Instant::now();
            let Pong { pid, generation } = ping(asking, &stats, traced).await?;
            let said = if asking.json {
                format!("{}\n", json!({ "pid": pid, "generation": generation }))
            } else {
                let ms = began.elapsed().as_secs_f64() * 1e3;
                format!("pong from pid {pid}, generation {generation}, in {ms:.2} ms\n")
            };
            ask::write(move || exit::print(&said)).await?
        }
        Wanted::For(only, input) => {
            let asker = Asker { asking, only: Some(only), traced, elsewhere: true, client };
            match input {
                Input::Prompt => {
                    // Nobody shall type for nobody.
                    ping(asking, &stats, false).await?;
                    asker.prompt().await
                }
                Input::Given(inputs) => {
                    // A program that calls a service and has lost its data is not to get another's answer.
                    if inputs.sample {
                        return Err(misused("no INPUT, and nothing on standard input"));
                    }
                    let (reads_stdin, size) = (inputs.reads_stdin, inputs.size());
                    let (context, trace_id) = ask::context(asking, traced);
                    // Where only a worker is at the socket, nobody can be asked.
                    let host = socket.with_file_name(CONTROL_SOCKET);
                    let ask = async |host: Caller| host.reading(trace_id).await;
                    let reading = async || Caller::ask(&host, true, &ask).await.ok().flatten();
                    let wait = Wait { asking, journal, reads_stdin, size, reading };
                    asker.answer(inputs, context, wait.tell()).await
                }
            }
        }
    }
}

async fn ping(asking: &Asking, stats: &Stats, traced: bool) -> Result<Pong, Failure> {
    let pong = stats.ping(ask::context(asking, traced).0).await;
    pong.map_err(|error| ask::failure(asking, true, &[], &[], AskError::Call(CallError::from(error))))
}

fn socket(config: &CallConfig) -> Result<PathBuf, Failure> {
    if let Some(socket) = &config.socket {
        return Ok(socket.clone());
    }
    let chosen = config.runtime_dir.as_deref();
    let base = Base::existing(chosen).map_err(|error| Failure::RuntimeDir(error.to_string()))?;
    let base =
        base.ok_or_else(|| Failure::NoService { place: Base::place(chosen), found: Found::Nothing })?;
    Ok(base.path().join(SOCKET))
}

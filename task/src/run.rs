//! What surrounds a run that ends: its journal, what of it is on the screen, and its last record.

use task_host::journal::Journal;
use task_host::record::Level;
use task_host::screen::Screen;
use task_host::spawn::WorkerSpec;
use task_host::store::{RUNS, Store};
use tracing_subscriber::layer::SubscriberExt;

use crate::args::{Asking, Verbosity};
use crate::exit::Failure;
use crate::signals::Signals;

/// The journal of the run of this name, which everything in this process writes to from now on.
pub fn journal(run: &str, screen: Screen) -> Journal {
    let journal = Journal::new(run, screen);
    // It is set once in a process, here.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(journal.layer()));
    journal
}

/// The worker, computing with the instructions that `TASK_SIMD` names: for tests, and for who suspects them.
pub fn computing(spec: WorkerSpec) -> WorkerSpec {
    match std::env::var_os("TASK_SIMD") {
        Some(level) => spec.env("TASK_SIMD", level),
        None => spec,
    }
}

/// Ends a run: `clear` removes what it made. Nothing is left to be done but to say how it ended.
pub fn end(
    ended: Result<(), Failure>,
    journal: &Journal,
    signals: Signals,
    clear: impl FnOnce(),
) -> Result<(), Failure> {
    // For the log: on the screen the failure is the last word.
    if let Err(failure) = &ended
        && !matches!(failure, Failure::Signal(_) | Failure::ClosedOutput)
    {
        tracing::info!(kind = failure.kind(), "failed: {}", failure.text().trim_start_matches("task: "));
    }
    clear();
    keep(journal);
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

/// The lifecycle shows where there is no data to be piped on; with data only warnings do, so cron stays silent.
pub fn screen(asking: &Asking, data: bool) -> Screen {
    let on =
        |minimum| Screen::new(minimum, asking.color.on(rustix::termios::isatty(rustix::stdio::stderr())));
    match asking.verbosity {
        // Nothing beside the one line of JSON that a failure is.
        Verbosity::Normal | Verbosity::Quiet if asking.json => Screen::on(None, Level::Error, false),
        Verbosity::Quiet => on(Level::Error),
        Verbosity::Normal if data => on(Level::Warn).without_calls(),
        Verbosity::Normal => on(Level::Info).without_calls(),
        Verbosity::Verbose => on(Level::Info),
        Verbosity::Debug => on(Level::Debug),
    }
}

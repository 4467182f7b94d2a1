//! `task status`, `restart` and `stop`: a running service asked over its control socket.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use task_host::client::Outcome;
use task_host::control::{CONTROL_SOCKET, Caller, Child, ControlError, Report, State};
use task_host::record::safe_json;
use task_host::run_dir::Base;
use task_host::screen::Escaped;

use task_proto::limits::{Amount, Limit};

use crate::args::{ControlCall, ControlConfig};
use crate::ask;
use crate::exit::{self, CallKind, Failure, Found};

/// So a line is no wider than the others.
const LIMITS_A_LINE: usize = 4;

/// Asks, and shows what the service says.
pub fn run(call: ControlCall, config: &ControlConfig) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Internal(error.to_string()))?;
    let said = runtime.block_on(ask(call, config))?;
    exit::print(&said)
}

async fn ask(call: ControlCall, config: &ControlConfig) -> Result<String, Failure> {
    let chosen = config.runtime_dir.as_deref();
    let base = Base::existing(chosen).map_err(|error| Failure::RuntimeDir(error.to_string()))?;
    let Some(base) = base else {
        return Err(Failure::NoService { place: Base::place(chosen), found: Found::Nothing });
    };
    let failed = |error| failure(call, error, base.path());
    let socket = base.path().join(CONTROL_SOCKET);
    match call {
        ControlCall::Status => {
            let report = Caller::ask(socket, true, async |host| host.status().await).await.map_err(failed)?;
            Ok(if config.json { document(&report) } else { text(&report) })
        }
        ControlCall::Restart => {
            let restarted = Caller::ask(socket, false, async |host| host.restart().await).await;
            let generation = restarted.map_err(failed)?;
            Ok(if config.json {
                format!("{}\n", json!({ "generation": generation }))
            } else {
                format!("generation {generation} serves\n")
            })
        }
        ControlCall::Stop => {
            Caller::ask(socket, false, Caller::stop).await.map(|()| String::new()).map_err(failed)
        }
    }
}

fn failure(call: ControlCall, error: ControlError, directory: &Path) -> Failure {
    let message = match call {
        ControlCall::Status => error.to_string(),
        ControlCall::Restart | ControlCall::Stop => format!("{}: {error}", Outcome::Unknown),
    };
    match error {
        ControlError::NoService => Failure::NoService { place: directory.to_owned(), found: Found::Nothing },
        ControlError::NotRestarted(refused) => Failure::NotRestarted(refused),
        ControlError::Connect(cause) => ask::unreachable(directory.join(CONTROL_SOCKET), &cause),
        ControlError::Silent => Failure::Call { kind: CallKind::NoAnswer, message },
        ControlError::NeverSent => {
            Failure::Call { kind: CallKind::NeverSent, message: format!("{}: {error}", Outcome::NeverSent) }
        }
        ControlError::Lost(_) => Failure::Call { kind: CallKind::OutcomeUnknown, message },
    }
}

/// For programs: one line.
fn document(report: &Report) -> String {
    let child = |child: &Child| {
        json!({
            "pid": child.pid,
            "generation": child.generation,
            "build": child.build,
            "uptime_s": rounded(child.uptime_s),
            "memory_bytes": child.memory_bytes,
        })
    };
    let document = json!({
        "state": report.state,
        "pid": report.pid,
        "run": report.run,
        "socket": report.socket,
        "uptime_s": rounded(report.uptime_s),
        "memory_bytes": report.memory_bytes,
        "restarts": report.restarts,
        "last_restart": report.last_restart,
        "sandbox": report.sandbox,
        "child": report.child.as_ref().map(child),
        "draining": report.draining.iter().map(child).collect::<Vec<_>>(),
        "calls": report.calls,
        "connections": report.connections,
        "limits": report.limits.named().map(amount).collect::<serde_json::Map<_, _>>(),
    });
    format!("{}\n", safe_json(&document.to_string()))
}

/// A limit as a plain number, in bytes or seconds: so a flag takes it, too.
fn amount(Limit { name, amount, .. }: Limit) -> (String, Value) {
    let amount = match amount {
        Amount::Number(number) => json!(number),
        Amount::Bytes(bytes) => json!(bytes),
        Amount::Time(time) => json!(time.as_secs_f64()),
        Amount::Unlimited => Value::Null,
    };
    (name.to_owned(), amount)
}

/// For people: a line each.
fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {}", Escaped(&value));
    };
    line("state", format!("{} (pid {}, up {})", state(report.state), report.pid, span(report.uptime_s)));
    line("socket", report.socket.clone());
    let worker = |child: &Child| {
        let Child { pid, generation, build, uptime_s, memory_bytes } = child;
        let (up, memory) = (span(*uptime_s), bytes(*memory_bytes));
        format!("pid {pid}, generation {generation}, up {up}, build {build}, memory {memory}")
    };
    line("worker", report.child.as_ref().map_or_else(|| "none".to_owned(), worker));
    for child in &report.draining {
        line("draining", worker(child));
    }
    line("sandbox", report.sandbox.map_or_else(|| "-".to_owned(), |sandbox| sandbox.to_string()));
    let calls = &report.calls;
    line(
        "calls",
        format!("{} answered, {} of them failed, {} in flight", calls.total, calls.failed, calls.in_flight),
    );
    let latency = match (calls.p50_us, calls.p99_us) {
        (Some(p50), Some(p99)) => format!("half within {}, 99 % within {}", micros(p50), micros(p99)),
        _ => "-".to_owned(),
    };
    line("latency", latency);
    let open = &report.connections;
    line("connections", format!("{} open of at most {}, {} accepted", open.open, open.limit, open.total));
    line("memory", format!("{} (without the worker)", bytes(report.memory_bytes)));
    let last = report.last_restart.as_ref();
    let last =
        last.map_or_else(String::new, |last| format!(", the last at {}: {}", local(&last.time), last.reason));
    line("restarts", format!("{}{last}", report.restarts));
    let limits: Vec<_> =
        report.limits.named().map(|limit| format!("{} {}", limit.name, limit.amount)).collect();
    for (at, limits) in limits.chunks(LIMITS_A_LINE).enumerate() {
        line(if at == 0 { "limits" } else { "" }, limits.join(", "));
    }
    text
}

fn state(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Serving => "serving",
        State::Reloading => "serving, its successor is starting",
        State::Waiting => "waiting, a start has failed",
        State::Stopping => "stopping",
    }
}

/// A time of the log, as the log shows it to people.
fn local(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// Milliseconds are enough.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// A length of time by its two largest units: `3 d 4 h`, `12 min 5 s`, `2.5 s`.
fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// An amount of memory, or of a file.
pub fn bytes(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    match bytes as f64 / KIB {
        kib if kib < 1.0 => format!("{bytes} B"),
        kib if kib < KIB => format!("{kib:.1} KiB"),
        kib if kib < KIB * KIB => format!("{:.1} MiB", kib / KIB),
        kib => format!("{:.1} GiB", kib / KIB / KIB),
    }
}

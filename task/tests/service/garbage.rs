//! Messages of both protocols that were changed at random: no worker dies of one, a neighbour's answers stay right, and
//! memory level.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use futures::SinkExt as _;
use tarpc::{ClientMessage, Request};
use task_host::client::context;
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Query, StatsRequest, StatsResponse};
use task_proto::wire::{self, ClientTransport, FdStream};

use crate::house::{LIMIT, children, figure, until};
use crate::moments::Moments;
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::victim::Victim;

/// Messages that are sent on one connection, if it bears so many.
const MESSAGES: usize = 20;
/// How long the neighbour asks each time.
const CHECK: Duration = Duration::from_millis(5);
/// By how much memory may differ when it is as good as level.
const LEVEL_KIB: u64 = 16 * 1024;
/// What is asked last: its answer comes when all before it was read.
const LAST: &str = "{\"jsonrpc\":\"2.0\",\"id\":\"the last one\",\"method\":\"ping\"}\n";

const LINES: [&str; 8] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"mean","params":{"numbers":[1,2.5,-3e4,"inf"]}}"#,
    r#"{"jsonrpc":"2.0","id":"a","method":"Stats.Mode","params":{"numbers":[1,1,2],"missing":"skip"},"deadline_ms":50}"#,
    r#"{"jsonrpc":"2.0","id":2,"method":"median","params":{"inputs":[{"numbers":[3]},{"attached":0,"format":"f64"}]}}"#,
    r#"{"method":"Stats.Median","params":[{"numbers":[9007199254740993,null]}],"id":3}"#,
    r#"[{"jsonrpc":"2.0","id":4,"method":"ping"},{"jsonrpc":"2.0","method":"mean","params":{"numbers":[1]}},7]"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"release","params":{"attached":3}}"#,
    r#"{"jsonrpc":"2.0","id":6,"method":"ping","trace_id":"0123456789abcdef0123456789abcdef"}"#,
    r#" {"jsonrpc":"2.0","method":"mode","params":{"numbers":[1e308,-1e-308,18446744073709551616]},"id":null}"#,
];

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let worker = until("there is a worker", || children(serving.pid()).first().copied());
    let mut victim = Victim::connect(&service.socket(), &service.house.path("numbers"), scale.seed);
    let mut moments = Moments::new(scale.seed, LIMIT);
    let frames = frames();
    let messages = scale.count(6_000, 120_000);
    let (mut sent, mut early, mut kept) = ([0; 2], None, [0; 2]);
    while sent[0] + sent[1] < messages {
        let tarpc = moments.coin();
        let (many, whole) = if tarpc {
            send_frames(&service.socket(), &frames, &mut moments)
        } else {
            send_lines(&service.socket(), &mut moments)
        };
        sent[usize::from(tarpc)] += many;
        kept[usize::from(tarpc)] += usize::from(whole);
        victim.ask(CHECK);
        if early.is_none() && sent[0] + sent[1] >= messages / 4 {
            early = figure(worker, "status", "VmRSS");
        }
    }
    report.count("lines of JSON", sent[0] as u64);
    report.count("tarpc frames", sent[1] as u64);
    report.count("answers checked beside them", victim.answered);
    report.count("connections that bore all of theirs", (kept[0] + kept[1]) as u64);
    report.demand(kept[0] > 0, || "no connection bore its lines".to_owned());
    let (early, late) = (early.unwrap(), figure(worker, "status", "VmRSS").unwrap());
    report.note(format_args!("memory after a quarter of them {early} KiB, at the end {late} KiB"));
    report.demand(late <= early + LEVEL_KIB, || format!("memory grew from {early} KiB to {late} KiB"));
    report.count("times that its connection made room", victim.dismissed);
    let last = victim.worker();
    report.demand(last == (worker, 1), || format!("the worker {worker} was replaced by {last:?}"));
    drop(victim);
    serving.stop();
    report
}

/// Sends changed lines, and reads until the last is answered or the connection closed: how many, and which of the two.
fn send_lines(socket: &Path, moments: &mut Moments) -> (usize, bool) {
    let mut bytes = Vec::new();
    for _ in 0..MESSAGES {
        let mut line = LINES[moments.below(LINES.len())].as_bytes().to_vec();
        change(&mut line, moments, |moments| LINES[moments.below(LINES.len())].as_bytes());
        bytes.extend(line);
        bytes.push(b'\n');
    }
    bytes.extend(LAST.as_bytes());
    (MESSAGES, converse(socket, &bytes, b"the last one"))
}

fn send_frames(socket: &Path, frames: &[Vec<u8>], moments: &mut Moments) -> (usize, bool) {
    let mut bytes = Vec::new();
    for _ in 0..MESSAGES {
        let mut frame = frames[moments.below(frames.len())].clone();
        change(&mut frame, moments, |moments| &frames[moments.below(frames.len())]);
        // Mostly the length fits: what lies behind it is to be read.
        let length = if moments.below(20) == 0 { moments.next() as u32 } else { frame.len() as u32 };
        bytes.extend(length.to_be_bytes());
        bytes.extend(frame);
    }
    (MESSAGES, converse(socket, &bytes, b""))
}

/// Writes all, ends its input, and reads to the end: whether that held this.
fn converse(socket: &Path, bytes: &[u8], wanted: &[u8]) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let is_sent = stream.write_all(bytes).is_ok() && stream.shutdown(std::net::Shutdown::Write).is_ok();
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_ne!(
            error.kind(),
            ErrorKind::WouldBlock,
            "neither answered nor closed: {}",
            bytes.escape_ascii()
        );
    }
    is_sent && said.windows(wanted.len().max(1)).any(|part| wanted.is_empty() || part == wanted)
}

/// One to four changes: other bytes, some taken out, some twice, another message's end, numbers out of all bounds.
fn change<'a>(message: &mut Vec<u8>, moments: &mut Moments, mut other: impl FnMut(&mut Moments) -> &'a [u8]) {
    for _ in 0..=moments.below(4) {
        let at = moments.below(message.len() + 1);
        let end = (at + moments.below(9)).min(message.len());
        match moments.below(7) {
            0 if at < message.len() => message[at] = moments.next() as u8,
            1 if at < message.len() => message[at] ^= 1 << moments.below(8),
            2 => drop(message.drain(at..end)),
            3 => {
                let again = message[at..end].repeat(1 + moments.below(200));
                message.splice(at..at, again);
            }
            4 => {
                let other = other(moments);
                message.truncate(at);
                message.extend(&other[at.min(other.len())..]);
            }
            5 => message.splice(at..at, *b"-99999999999999999999e999").for_each(drop),
            _ => {
                let odd = [0xc1, 0xdc, 0xdf, 0xff, 0x7f, b'[', b'{', b'"', b'\\', b'\n'][moments.below(10)];
                message.insert(at, odd);
            }
        }
    }
}

/// One of each request as its bytes are, without the length before it.
fn frames() -> Vec<Vec<u8>> {
    let numbers =
        |numbers: &[f64]| Query::numbers(numbers.iter().map(|&number| Number::Float(number)).collect());
    let requests = [
        StatsRequest::Ping {},
        StatsRequest::Mean { query: numbers(&[1.0, 2.5]) },
        StatsRequest::Median { query: numbers(&[f64::INFINITY]) },
        StatsRequest::Mode { query: numbers(&[3.0; 40]) },
        StatsRequest::Release { attached: 2 },
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut transport: ClientTransport<StatsRequest, StatsResponse> =
            wire::client(FdStream::new(ours, 0).unwrap(), &Limits::default());
        let mut frames = Vec::new();
        for (id, message) in requests.into_iter().enumerate() {
            let request = Request { context: context(7, Some(LIMIT)), id: id as u64, message };
            transport.send(ClientMessage::Request(request)).await.unwrap();
            let mut bytes = vec![0; 64 * 1024];
            theirs.readable().await.unwrap();
            let length = theirs.try_read(&mut bytes).unwrap();
            frames.push(bytes[4..length].to_vec());
        }
        frames
    })
}

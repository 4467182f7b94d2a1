//! JSON-RPC on the socket of the real `task-rpc`, as clients in other languages speak it.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Alone, Host, PATIENCE, client, context};
use task_proto::crash::{Condemned, Crash, TraceId};
use task_proto::fault::Fault;
use task_proto::handshake::Answer;
use task_proto::number::Number;
use task_proto::stats::{Missing, Query, Source};
use task_proto::wire::FdStream;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

/// A client that writes lines and reads lines.
struct Lines(BufReader<UnixStream>);

impl Lines {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Lines(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(&format!("{request}\n"));
        self.reply()
    }

    fn reply(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

fn two(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

/// All that a client gets that sends this and ends its requests, like `nc -N`.
fn said(socket: &Path, sent: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn a_query_that_names_attachments_again_and_again_is_refused() {
    let alone = Alone::start();
    let mut client = Lines::connect(&alone.socket);
    let query = |times| two("mean", &json!({ "inputs": vec![json!({ "attached": 0 }); times] }));
    assert_eq!(client.ask(&query(16))["error"]["data"]["kind"], "no_attachment");
    let refused = client.ask(&query(17));
    assert_eq!(refused["error"]["data"]["kind"], "too_large", "{refused}");
}

#[test]
fn a_line_from_a_shell_is_answered_with_or_without_its_end() {
    let alone = Alone::start();
    let line = br#"{"jsonrpc":"2.0","id":1,"method":"mean","params":{"numbers":[1,2,6]}}"#;
    let answer = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"value\":3.0,\"count\":3,\"missing\":0,\"warnings\":[]}}\n";
    assert_eq!(said(&alone.socket, line), answer);
    assert_eq!(said(&alone.socket, &[&b" \n"[..], line, b"\r\n"].concat()), answer);
    assert_eq!(said(&alone.socket, b"\n\n"), "");
}

#[test]
fn every_method_answers_what_the_documents_say() {
    let alone = Alone::start();
    let mut lines = Lines::connect(&alone.socket);
    let sample = json!({ "numbers": [1, 5, 3, 1, 13, 5, 2, 4] });
    for (method, params, result) in [
        ("mean", &sample, json!({ "value": 4.25, "count": 8, "missing": 0, "warnings": [] })),
        (
            "Stats.Median",
            &sample,
            json!({ "value": 3.5, "low": 3, "high": 4, "count": 8, "missing": 0, "warnings": [] }),
        ),
        (
            "Stats.mode",
            &json!({ "numbers": [1, 5, null, 1, 5, "NaN", 2], "missing": "skip" }),
            json!({ "values": [1, 5], "frequency": 2, "total": 2, "count": 5, "missing": 2, "warnings": [] }),
        ),
        ("ping", &json!({}), json!({ "pid": alone.process.pid(), "generation": 0 })),
    ] {
        assert_eq!(lines.ask(&two(method, params))["result"], result, "{method}");
    }
    let refused = lines.ask(&two("mean", &json!({ "numbers": [1, "NA"] })));
    let data = &refused["error"]["data"];
    assert_eq!(
        (&refused["error"]["code"], &data["kind"], &data["column"]),
        (&json!(-32000), &json!("missing_value"), &json!(2))
    );
    assert_eq!(lines.ask(&two("median", &json!({ "numbers": [] })))["error"]["data"]["kind"], "empty_input");
    let huge = lines.ask(&two("mean", &json!({ "numbers": [9_223_372_036_854_775_808_u64, 0] })));
    assert_eq!(huge["result"]["warnings"].as_array().map(Vec::len), Some(1), "{huge}");
}

#[test]
fn what_the_dialect_refuses_is_counted_with_the_calls_that_failed() {
    let host = Host::start();
    let mut lines = Lines::connect(&host.socket);
    for line in ["{nonsense", r#"{"jsonrpc":"2.0","id":1}"#, r#"[1,{"jsonrpc":"2.0","id":1,"method":"sum"}]"#]
    {
        lines.send(&format!("{line}\n"));
        lines.line();
    }
    lines.ask(&two("mean", &json!([1, 2, 3])));
    lines.ask(&two("mean", &json!({ "numbers": [] })));
    lines.ask(&two("ping", &json!({})));
    // The last is counted before it is answered.
    let seen = host.board.read().unwrap();
    assert_eq!((seen.calls_total, seen.calls_failed), (7, 6));
    // Together their replies are too large: those that are withheld have failed, and are no calls more.
    let values: Vec<_> = (10..1010).map(|value| format!("{value}e13")).collect();
    let values = values.join(",");
    let mode =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"mode","params":{{"numbers":[{values},{values},7]}}}}"#);
    lines.send(&format!("[{}]\n", vec![mode; 70].join(",")));
    let replies = lines.reply();
    let withheld =
        replies.as_array().unwrap().iter().filter(|reply| reply["error"]["code"] == -32003).count();
    lines.ask(&two("ping", &json!({})));
    let seen = host.board.read().unwrap();
    assert!(withheld > 0);
    assert_eq!((seen.calls_total, seen.calls_failed), (7 + 71, 6 + withheld as u64));
}

#[test]
fn gos_client_works_as_it_is() {
    let alone = Alone::start();
    let mut lines = Lines::connect(&alone.socket);
    // What net/rpc/jsonrpc writes.
    lines.send("{\"method\":\"Stats.Mean\",\"params\":[{\"numbers\":[1,2,6]}],\"id\":0}\n");
    assert_eq!(
        lines.line(),
        "{\"id\":0,\"result\":{\"value\":3.0,\"count\":3,\"missing\":0,\"warnings\":[]},\"error\":null}\n"
    );
    lines.send("{\"method\":\"Stats.Ping\",\"params\":[{}],\"id\":1}\n");
    assert!(lines.reply()["result"]["pid"].is_u64());
    lines.send("{\"method\":\"Stats.Mean\",\"params\":[{\"numbers\":[]}],\"id\":2}\n");
    let reply = lines.reply();
    assert!(reply["error"].as_str().unwrap().starts_with("empty_input: "), "{reply}");
}

#[test]
fn who_speaks_neither_is_told_both() {
    let mut alone = Alone::start();
    let said = said(&alone.socket, b"GET / HTTP/1.1\r\n\r\n");
    assert!(said.contains("tarpc") && said.contains("JSON-RPC 2.0") && said.lines().count() == 1, "{said}");
    alone.process.wait_for("does not speak tarpc or JSON-RPC");
}

#[tokio::test]
async fn a_descriptor_that_is_passed_along_is_an_input_by_its_number() {
    let alone = Alone::start();
    let stream = FdStream::new(tokio::net::UnixStream::connect(&alone.socket).await.unwrap(), 0).unwrap();
    let file = alone.directory.path().join("numbers");
    std::fs::write(&file, "1 2\n6\n").unwrap();
    let attached = stream.outgoing().push(Arc::new(std::fs::File::open(&file).unwrap().into()));
    let mut stream = tokio::io::BufReader::new(stream);
    let mut replies = Vec::new();
    for (method, params) in [
        ("mean", json!({ "attached": attached, "format": "text" })),
        ("mean", json!({ "inputs": [{ "attached": attached }, { "numbers": [7] }] })),
        ("release", json!({ "attached": attached })),
        ("mean", json!({ "attached": attached })),
    ] {
        stream.write_all(format!("{}\n", two(method, &params)).as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        replies.push(serde_json::from_str::<Value>(&line).unwrap());
    }
    assert_eq!([&replies[0]["result"]["value"], &replies[1]["result"]["value"]], [&json!(3.0), &json!(4.0)]);
    assert_eq!(
        (&replies[2]["result"], &replies[3]["error"]["data"]["kind"]),
        (&json!(true), &json!("no_attachment"))
    );
}

#[tokio::test]
async fn term_answers_what_was_sent_whole_and_a_deadline_is_kept_meanwhile() {
    let mut alone = Alone::start();
    let stream = FdStream::new(tokio::net::UnixStream::connect(&alone.socket).await.unwrap(), 0).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (idle, _open) = std::io::pipe().unwrap();
    stream.outgoing().push(Arc::new(reader.into()));
    stream.outgoing().push(Arc::new(idle.into()));
    let mut stream = tokio::io::BufReader::new(stream);
    let waits = json!({ "jsonrpc": "2.0", "id": "pipe", "method": "mean", "params": { "attached": 0 } });
    let late = json!({ "jsonrpc": "2.0", "id": "late", "method": "mean", "params": { "attached": 1 }, "deadline_ms": 50 });
    // The last line has no end: nobody may execute it.
    let cut = two("ping", &json!({}));
    stream.write_all(format!("{waits}\n{late}\n{cut}").as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let reply: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!("late"), &json!(-32001)));
    alone.process.signal(Signal::TERM);
    while stream.write_all(b" ").await.is_ok() {
        tokio::task::yield_now().await;
    }
    writer.write_all(b"4 5").unwrap();
    drop(writer);
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    let reply: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&reply["id"], &reply["result"]["value"]), (&json!("pipe"), &json!(4.5)));
    line.clear();
    assert_eq!(stream.read_line(&mut line).await.unwrap(), 0, "{line}");
    let said = alone.process.end_well();
    assert!(
        said.contains(r#""message":"drained""#) && said.contains("deadline passed")
            || said.contains("drained"),
        "{said}"
    );
}

#[test]
fn a_request_that_workers_died_of_is_known_again_by_what_it_asks() {
    // The id that a request without one has is learned from the log of a first worker.
    let killer = two("mean", &json!({ "numbers": [] }));
    let mut alone = Alone::start();
    let mut lines = Lines::connect(&alone.socket);
    lines.ask(&killer);
    let logged: Value = serde_json::from_str(&alone.process.wait_for("empty_input")).unwrap();
    let trace_id: TraceId = serde_json::from_value(logged["trace_id"].clone()).unwrap();

    let host = Host::spawn(|_| {});
    let crash =
        Crash { generation: 2, cause: "killed by SIGSEGV".into(), stderr_tail: vec!["last words".into()] };
    let mut hello = host.hello();
    hello.condemned = vec![Condemned { trace_id, crash }];
    assert!(matches!(host.greet(&hello).unwrap(), Answer::Ready(_)));
    let mut lines = Lines::connect(&host.socket);
    let refused =
        lines.ask(&json!({ "jsonrpc": "2.0", "id": "other", "method": "mean", "params": { "numbers": [] } }));
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("other"), &json!(-32002)));
    assert_eq!(refused["error"]["data"]["cause"], "killed by SIGSEGV");
    // Others are not, and neither is the same with an id of its own.
    assert_eq!(lines.ask(&two("median", &json!({ "numbers": [] })))["error"]["data"]["kind"], "empty_input");
    let mut own = killer;
    own["trace_id"] = json!("0000000000000000000000000000ab12");
    assert_eq!(lines.ask(&own)["error"]["data"]["kind"], "empty_input");
}

#[tokio::test]
async fn a_request_is_known_again_by_an_attachment_in_memory_and_by_no_other() {
    let mut alone = Alone::start_talkative();
    let memory = rustix::fs::memfd_create("numbers", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let another = rustix::fs::memfd_create("numbers", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let [memory, another, pipe] = [memory, another, std::io::pipe().unwrap().0.into()].map(Arc::new);
    let request = |params: Value| format!("{}\n", two("mean", &params));
    let mut ask = async |attached: [&Arc<OwnedFd>; 2], params: Value| {
        let stream = FdStream::new(tokio::net::UnixStream::connect(&alone.socket).await.unwrap(), 0).unwrap();
        for descriptor in attached {
            stream.outgoing().push(Arc::clone(descriptor));
        }
        let mut stream = tokio::io::BufReader::new(stream);
        stream.write_all(request(params).as_bytes()).await.unwrap();
        stream.read_line(&mut String::new()).await.unwrap();
        let logged: Value = serde_json::from_str(&alone.process.wait_for("trace_id")).unwrap();
        logged["trace_id"].as_str().unwrap().to_owned()
    };
    let first = ask([&memory, &pipe], json!({ "attached": 0 })).await;
    assert_eq!(ask([&memory, &pipe], json!({ "attached": 0 })).await, first);
    assert_eq!(ask([&memory, &another], json!({ "attached": 0 })).await, first, "it names no other");
    assert_ne!(ask([&another, &pipe], json!({ "attached": 0 })).await, first);
    let both = json!({ "inputs": [{ "attached": 0 }, { "attached" : 1 }] });
    assert_eq!(ask([&memory, &another], both.clone()).await, ask([&memory, &another], both.clone()).await);
    // Whose pipe it is could be known only by asking for it.
    let drawn = ask([&memory, &pipe], both.clone()).await;
    assert_ne!(ask([&memory, &pipe], both).await, drawn);
    assert_ne!(drawn.trim_start_matches('0'), "");
}

#[test]
fn an_id_that_is_given_is_found_in_the_log() {
    let mut alone = Alone::start();
    let mut lines = Lines::connect(&alone.socket);
    let mut ping = two("ping", &json!({}));
    ping["trace_id"] = json!("0000000000000000000000000000ab12");
    lines.ask(&ping);
    let logged: Value = serde_json::from_str(&alone.process.wait_for("ab12")).unwrap();
    assert_eq!((&logged["level"], &logged["fields"]["method"]), (&json!("INFO"), &json!("ping")));
}

/// Reads what the worker has logged up to now: nobody else does, and a full pipe would hold it up.
fn read_log(alone: &mut Alone, lines: &mut Lines) {
    let mut ping = two("ping", &json!({}));
    ping["trace_id"] = json!("0000000000000000000000000000ab12");
    lines.ask(&ping);
    alone.process.wait_for("ab12");
}

/// What any client can send: JSON with mistakes, and bytes without sense.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let json = prop::sample::select(vec![
        r#"{"jsonrpc":"2.0","id":1,"method":"mean","params":{"numbers":[1,2,6]}}"#,
        r#"{"method":"Stats.Mode","params":[{"numbers":[1,2,6]}],"id":1}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"release","params":{"attached":0}}]"#,
        r#"{"jsonrpc":"2.0","id":"\ud800","method":"mean","params":{"inputs":[{"attached":0},{"numbers":[1e400]}]},"deadline_ms":1e400}"#,
    ]);
    let changed = (json, any::<prop::sample::Index>(), any::<Option<u8>>()).prop_map(|(line, at, byte)| {
        let mut line = line.as_bytes().to_vec();
        let at = at.index(line.len());
        match byte {
            Some(byte) => line[at] = byte,
            None => line.truncate(at),
        }
        line
    });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

#[test]
fn no_bytes_end_the_worker_or_touch_a_neighbour() {
    let mut alone = Alone::start_talkative();
    let socket = alone.socket.clone();
    let neighbour = RefCell::new((&mut alone, Lines::connect(&socket)));
    let lines = prop::collection::vec(line(), 1..8);
    let mut config = ProptestConfig::with_cases(400);
    config.failure_persistence = None;
    proptest!(config, |(first in prop::sample::select(vec![&b""[..], b"{", b"[", b"\0", b" "]), lines in lines)| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whoever is turned away may not be able to send all, or be reset on what it has yet to read.
        let _ = stream.write_all(&[first, &lines.join(&b'\n')].concat());
        let _ = stream.shutdown(Shutdown::Write);
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            prop_assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        let (alone, neighbour) = &mut *neighbour.borrow_mut();
        let answer = neighbour.ask(&two("mean", &json!({ "numbers": [1, 2, 6] })));
        read_log(alone, neighbour);
        prop_assert_eq!(&answer["result"]["value"], &json!(3.0));
    });
    alone.process.signal(Signal::TERM);
    let said = alone.process.end_well();
    assert!(!said.contains("panicked"), "{said}");
}

/// The answer of tarpc in JSON's words.
fn in_json<T: serde::Serialize>(answer: Result<T, Fault>) -> Value {
    match answer {
        Ok(result) => json!({ "result": result }),
        Err(fault) => json!({ "error": fault }),
    }
}

#[test]
fn both_dialects_answer_the_same_bit_for_bit() {
    let mut alone = Alone::start_talkative();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (tarpc, _) = runtime.block_on(client(&alone.socket));
    let lines = Lines::connect(&alone.socket);
    let lines = RefCell::new((&mut alone, lines));
    let number = prop_oneof![
        any::<i64>().prop_map(Number::Int),
        (-3..4_i64).prop_map(Number::Int),
        any::<u64>().prop_map(|bits| Number::Float(f64::from_bits(bits))),
        prop::sample::select(vec![0.1, 0.5, -0.0, 1e300, 5e-324, f64::NAN, f64::INFINITY])
            .prop_map(Number::Float),
    ];
    let sources = prop::collection::vec(prop::collection::vec(number, 0..6), 1..3);
    let mut config = ProptestConfig::with_cases(400);
    config.failure_persistence = None;
    proptest!(config, |(sources in sources, skip: bool)| {
        let sources = sources.into_iter().map(|numbers| Source::Numbers(numbers.into())).collect();
        let query = Query { sources, missing: if skip { Missing::Skip } else { Missing::Error } };
        let params = serde_json::to_value(&query).unwrap();
        let (alone, lines) = &mut *lines.borrow_mut();
        for method in ["mean", "median", "mode"] {
            let query = query.clone();
            let expected = runtime.block_on(async {
                match method {
                    "mean" => in_json(tarpc.mean(context(), query).await.unwrap()),
                    "median" => in_json(tarpc.median(context(), query).await.unwrap()),
                    _ => in_json(tarpc.mode(context(), query).await.unwrap()),
                }
            });
            let reply = lines.ask(&two(method, &params));
            let told = match reply.get("error") {
                Some(error) => json!({ "error": error["data"] }),
                None => json!({ "result": reply["result"] }),
            };
            // As text: equal floats of JSON values may differ in their sign. Each names the way round in its own words.
            let expected = expected.to_string().replace("missing=skip", r#"\"missing\":\"skip\""#);
            prop_assert_eq!(told.to_string(), expected);
        }
        read_log(alone, lines);
    });
}

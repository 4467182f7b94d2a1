//! JSON-RPC as a client sees it: requests, notifications, batches, versions, deadlines, ends.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use task_proto::crash::Crash;
use task_proto::limits::Limits;
use task_proto::wire::json::{JsonError, Methods, Params};
use task_proto::wire::{self, Decoder, FdStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::local;
use crate::support::*;

/// The probe's methods, with their parameters by name.
pub(crate) const METHODS: Methods<ProbeRequest, ProbeResponse> = Methods { request, reply };

fn request(method: &str, params: Params<'_>) -> Result<ProbeRequest, JsonError> {
    #[derive(Deserialize)]
    struct Any {
        #[serde(default)]
        values: Vec<f64>,
        #[serde(default)]
        bytes: u32,
        #[serde(default)]
        name: u32,
    }
    let json = params.json.map_or("{}", |json| json.get());
    let any: Any =
        serde_json::from_str(json).map_err(|error| JsonError::invalid_params(error.to_string()))?;
    Ok(match method {
        "echo" => ProbeRequest::Echo { values: any.values },
        "grow" => ProbeRequest::Grow { bytes: any.bytes },
        "panic" => ProbeRequest::Panic { message: "as asked".into() },
        "wait" => ProbeRequest::Wait { name: any.name },
        other => return Err(JsonError::unknown_method(other, "four")),
    })
}

fn reply(reply: ProbeResponse, out: &mut dyn std::io::Write) -> Result<(), JsonError> {
    match reply {
        ProbeResponse::Echo(values) => serde_json::to_writer(out, &values)?,
        ProbeResponse::Grow(text) => serde_json::to_writer(out, &text)?,
        ProbeResponse::Panic(()) => serde_json::to_writer(out, &true)?,
        ProbeResponse::Wait(name) => serde_json::to_writer(out, &name)?,
    }
    Ok(())
}

/// A client that writes lines by hand, and the service that it asks.
pub(crate) struct Json {
    pub(crate) stream: BufReader<UnixStream>,
    pub(crate) handler: Handler,
    pub(crate) events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    pub(crate) end: JoinHandle<End>,
}

impl Json {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, events) = Handler::new();
        let transport = wire::json_server(
            FdStream::new(theirs, limits.attachments).unwrap(),
            limits,
            METHODS,
            &Decoder::default(),
        );
        let end = tokio::task::spawn_local(converse(transport, handler.clone().serve()));
        Json { stream: BufReader::new(ours), handler, events, end }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        soon(self.stream.get_mut().write_all(text.as_bytes())).await.unwrap();
    }

    /// Sends no more.
    pub(crate) async fn finish(&mut self) {
        self.stream.get_mut().shutdown().await.unwrap();
    }

    /// The next line as it is; empty at the end.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.stream.read_line(&mut line)).await.unwrap();
        line
    }

    pub(crate) async fn value(&mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }
}

fn two(id: &Value, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string() + "\n"
}

fn code(reply: &Value) -> (i64, &str) {
    let error = &reply["error"];
    assert_eq!(error["message"], error["data"]["message"], "{reply}");
    (error["code"].as_i64().unwrap(), error["data"]["kind"].as_str().unwrap())
}

#[test]
fn a_request_is_answered_on_a_line_of_its_own_with_its_id_as_it_was_written() {
    local(async {
        let mut json = Json::new(&Limits::default());
        for id in ["1", "-1.50e1", "\"a\\u00e9\\n\"", "null", "18446744073709551616"] {
            let request = r#"{"jsonrpc":"2.0","method":"grow","params":{"bytes":2},"id":"#;
            json.send(&format!(" \t{request}{id}}} \r\n\n")).await;
            let reply = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"xx\"}}\n");
            assert_eq!(json.line().await, reply);
        }
        json.finish().await;
        assert_eq!(json.line().await, "");
        assert!(matches!(soon(json.end).await.unwrap(), End::Served));
    });
}

#[test]
fn a_notification_is_executed_and_never_answered_not_even_with_an_error() {
    local(async {
        let mut json = Json::new(&Limits::default());
        json.handler.release.add_permits(1);
        json.send("{\"jsonrpc\":\"2.0\",\"method\":\"wait\",\"params\":{\"name\":7}}\n").await;
        assert_eq!((json.event().await, json.event().await), (Event::Started(7), Event::Ended(7)));
        for silent in [
            r#"{"jsonrpc":"2.0","method":"panic"}"#,
            r#"{"jsonrpc":"2.0","method":"no such"}"#,
            r#"{"jsonrpc":"2.0","method":"wait","deadline_ms":0}"#,
            r#"{"jsonrpc":"2.0","method":"wait","deadline_ms":"soon"}"#,
            r#"{"method":"grow","id":null}"#,
        ] {
            json.send(&format!("{silent}\n")).await;
        }
        json.send(&two(&json!(1), "grow", &json!({ "bytes": 1 }))).await;
        json.finish().await;
        assert_eq!(json.value().await["id"], 1);
        assert_eq!(json.line().await, "");
    });
}

#[test]
fn a_batch_is_answered_by_one_line_when_its_last_call_is_and_its_notifications_by_nothing() {
    local(async {
        let mut json = Json::new(&Limits::default());
        let batch = json!([
            { "jsonrpc": "2.0", "id": 1, "method": "wait", "params": { "name": 1 } },
            { "jsonrpc": "2.0", "id": 2, "method": "grow", "params": { "bytes": 2 } },
            { "jsonrpc": "2.0", "method": "grow" },
            { "jsonrpc": "2.0", "id": 3, "method": "no such" },
            7,
            { "jsonrpc": "2.0", "id": {}, "method": "grow" },
        ]);
        json.send(&format!("{batch}\n")).await;
        assert_eq!(json.event().await, Event::Started(1));
        // Others need not wait for it.
        json.send(&two(&json!("other"), "grow", &json!({}))).await;
        assert_eq!(json.value().await["id"], "other");
        json.handler.release.add_permits(1);
        let replies = json.value().await;
        let replies = replies.as_array().unwrap();
        let of = |id: i64| replies.iter().find(|reply| reply["id"] == id).unwrap();
        assert_eq!((replies.len(), &of(1)["result"], &of(2)["result"]), (5, &json!(1), &json!("xx")));
        assert_eq!(code(of(3)), (-32601, "unknown_method"));
        let nobody: Vec<_> = replies.iter().filter(|reply| reply["id"].is_null()).map(code).collect();
        assert_eq!(nobody, [(-32600, "invalid_request"); 2]);

        json.send("[{\"jsonrpc\":\"2.0\",\"method\":\"grow\"}]\n[]\n").await;
        assert_eq!(code(&json.value().await), (-32600, "invalid_request"));
    });
}

#[test]
fn what_is_no_request_is_told_why_and_the_connection_goes_on() {
    local(async {
        let mut json = Json::new(&Limits::default());
        let deep = "[".repeat(200_000);
        for (line, told) in [
            ("{\"jsonrpc\":\"2.0\",", (-32700, "parse_error")),
            ("nonsense", (-32700, "parse_error")),
            (&deep, (-32700, "parse_error")),
            ("[1,", (-32700, "parse_error")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"grow"} 7"#, (-32700, "parse_error")),
            ("true", (-32600, "invalid_request")),
            ("{}", (-32600, "invalid_request")),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"grow"}"#, (-32600, "invalid_request")),
            (r#"{"jsonrpc":"1.0","id":null,"method":"grow"}"#, (-32600, "invalid_request")),
            (r#"{"jsonrpc":"2.0","id":null,"method":7}"#, (-32600, "invalid_request")),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"grow"}"#, (-32600, "invalid_request")),
            (r#"{"jsonrpc":"2.0","id":true,"method":"grow"}"#, (-32600, "invalid_request")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"Grow"}"#, (-32601, "unknown_method")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"grow","params":7}"#, (-32602, "invalid_params")),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"grow","params":{"bytes":1e400}}"#,
                (-32602, "invalid_params"),
            ),
            (r#"{"jsonrpc":"2.0","id":null,"method":"grow","trace_id":"12"}"#, (-32602, "invalid_params")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"panic"}"#, (-32603, "internal")),
        ] {
            json.send(&format!("{line}\n")).await;
            let reply = json.value().await;
            let shown = &line[..line.len().min(80)];
            assert_eq!((code(&reply), &reply["id"]), (told, &Value::Null), "{shown} {reply}");
        }
        // A list of what an object has, in its order, is none.
        json.send("[[\"2.0\",1,\"grow\",{\"bytes\":1},null,null]]\n").await;
        let replies = json.value().await;
        assert_eq!(
            replies.as_array().unwrap().iter().map(code).collect::<Vec<_>>(),
            [(-32600, "invalid_request")]
        );
        soon(json.stream.get_mut().write_all(b"{\"method\":\"\xff\"}\n")).await.unwrap();
        assert_eq!(code(&json.value().await), (-32700, "parse_error"));
        let id = format!("\"{}\"", "x".repeat(127));
        json.send(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"grow\"}}\n")).await;
        let reply = json.value().await;
        assert_eq!((code(&reply), &reply["id"]), ((-32600, "invalid_request"), &Value::Null));
    });
}

#[test]
fn without_jsonrpc_the_answer_is_as_version_1_has_it_and_as_go_reads_it() {
    local(async {
        let mut json = Json::new(&Limits::default());
        json.send("{\"method\":\"grow\",\"params\":[{\"bytes\":2,\"deadline_ms\":60000}],\"id\":0}\n").await;
        assert_eq!(json.line().await, "{\"id\":0,\"result\":\"xx\",\"error\":null}\n");
        json.send("{\"method\":\"grow\",\"params\":[{\"bytes\":-1}],\"id\":1}\n").await;
        let reply = json.value().await;
        assert!(reply["error"].as_str().unwrap().starts_with("invalid_params: "), "{reply}");
        assert!(reply["result"].is_null() && reply["id"] == 1);
        json.send("{\"method\":\"wait\",\"params\":[{\"name\":3,\"deadline_ms\":20}],\"id\":2}\n").await;
        assert_eq!(
            json.line().await,
            "{\"id\":2,\"result\":null,\"error\":\"deadline: the deadline has passed\"}\n"
        );
        // A line without a request's id would be taken for the answer to the request 0.
        json.handler.release.add_permits(1);
        json.send("{\"method\":\"wait\",\"params\":[{\"name\":4}],\"id\":5}\nnonsense\n").await;
        assert_eq!(json.line().await, "{\"id\":5,\"result\":4,\"error\":null}\n");
        assert_eq!(json.line().await, "");
        assert!(matches!(soon(json.end).await.unwrap(), End::Failed));
    });
}

#[test]
fn a_deadline_is_answered_when_it_passes_and_the_call_is_cancelled() {
    local(async {
        let one = Limits { in_flight: 1, ..Limits::default() };
        let mut json = Json::new(&one);
        let begun = Instant::now();
        let with = |id: u32, ms: &str| {
            let params = json!({ "name": id });
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"wait\",\"params\":{params},\"deadline_ms\":{ms}}}\n"
            )
        };
        json.send(&with(1, "30.5")).await;
        let reply = json.value().await;
        assert_eq!((code(&reply), &reply["id"]), ((-32001, "deadline"), &json!(1)));
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert_eq!((json.event().await, json.event().await), (Event::Started(1), Event::Ended(1)));
        // While the gate is full, too, and after the end of requests; what has no time is never begun.
        json.send(&two(&json!("first"), "wait", &json!({ "name": 2 }))).await;
        json.send(&with(3, "40")).await;
        json.send(&with(4, "-1e400")).await;
        json.send(&with(5, "1e400")).await;
        json.finish().await;
        let replies = [json.value().await, json.value().await];
        let ids: Vec<_> = replies.iter().map(|reply| (code(reply).0, reply["id"].as_i64())).collect();
        assert_eq!(ids, [(-32001, Some(4)), (-32001, Some(3))], "the fifth waits for its turn");
    });
}

#[test]
fn a_call_that_workers_died_of_and_a_reply_that_is_too_large_are_errors_of_that_call_only() {
    local(async {
        let limits = Limits { frame: 4096, ..Limits::default() };
        let mut json = Json::new(&limits);
        json.send(&two(&json!(1), "grow", &json!({ "bytes": 4096 }))).await;
        assert_eq!(code(&json.value().await), (-32003, "reply_too_large"));
        json.send(&two(&json!(2), "grow", &json!({ "bytes": 4000 }))).await;
        let reply = json.line().await;
        assert!(reply.len() > 4000 && reply.len() <= 4096, "{}", reply.len());

        let (ours, theirs) = UnixStream::pair().unwrap();
        let crash =
            Crash { generation: 7, cause: "killed by SIGABRT".into(), stderr_tail: vec!["oops".into()] };
        let condemned = move |_, _: ProbeRequest| {
            let error = crash.to_error();
            async move { Err::<ProbeResponse, _>(error) }
        };
        let transport =
            wire::json_server(FdStream::new(theirs, 0).unwrap(), &limits, METHODS, &Decoder::default());
        tokio::task::spawn_local(converse(transport, tarpc::server::serve(condemned)));
        let mut ours = BufReader::new(ours);
        ours.write_all(two(&json!(1), "grow", &json!({})).as_bytes()).await.unwrap();
        let mut line = String::new();
        soon(ours.read_line(&mut line)).await.unwrap();
        let reply: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(code(&reply), (-32002, "crashed"));
        let data = &reply["error"]["data"];
        let told = (&data["generation"], &data["cause"], &data["stderr_tail"]);
        assert_eq!(told, (&json!(7), &json!("killed by SIGABRT"), &json!(["oops"])));
    });
}

#[test]
fn a_line_without_an_end_is_answered_at_the_clients_own_end_and_dropped_in_a_drain() {
    local(async {
        let mut json = Json::new(&Limits::default());
        json.send(two(&json!(1), "grow", &json!({})).trim_end()).await;
        json.finish().await;
        assert_eq!(json.value().await["id"], 1);
        assert_eq!(json.line().await, "");

        let (ours, theirs) = UnixStream::pair().unwrap();
        let (handler, mut events) = Handler::new();
        let transport = wire::json_server(
            FdStream::new(theirs, 0).unwrap(),
            &Limits::default(),
            METHODS,
            &Decoder::default(),
        );
        let mut ours = BufReader::new(ours);
        let whole = two(&json!(1), "wait", &json!({ "name": 1 }));
        let cut = two(&json!(2), "wait", &json!({ "name": 2 }));
        ours.write_all((whole + cut.trim_end()).as_bytes()).await.unwrap();
        transport.drain();
        let end = tokio::task::spawn_local(converse(transport, handler.clone().serve()));
        assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
        // The end of its line can no longer be written: it was never executed.
        assert!(ours.write_all(b"\n").await.is_err());
        handler.release.add_permits(2);
        let mut said = String::new();
        soon(tokio::io::AsyncReadExt::read_to_string(&mut ours, &mut said)).await.unwrap();
        assert_eq!(said, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n");
        assert!(matches!(soon(end).await.unwrap(), End::Served));
        assert_eq!(events.recv().await, Some(Event::Ended(1)));
        drop(handler);
        assert_eq!(soon(events.recv()).await, None, "the second was never begun");
    });
}

#[test]
fn a_client_that_hangs_up_cancels_its_calls_and_one_that_ends_its_requests_does_not() {
    local(async {
        let mut json = Json::new(&Limits::default());
        json.send(&two(&json!(1), "wait", &json!({ "name": 1 }))).await;
        assert_eq!(json.event().await, Event::Started(1));
        json.finish().await;
        json.handler.release.add_permits(1);
        assert_eq!(json.value().await["result"], 1);

        let mut json = Json::new(&Limits::default());
        json.send(&two(&json!(1), "wait", &json!({ "name": 1 }))).await;
        assert_eq!(json.event().await, Event::Started(1));
        drop(json.stream);
        assert_eq!(soon(json.events.recv()).await, Some(Event::Ended(1)));
        assert!(matches!(soon(json.end).await.unwrap(), End::HungUp));
    });
}

//! JSON-RPC, as the service hears it: an input is a [`Shape`] and lines.
//!
//! What is due to each line is decided here anew, from what `PROTOCOL.md` says of it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use task_proto::limits::JSON_ID;
use task_proto::stats::json::METHODS;
use task_proto::wire::{self, Decoder};

use crate::MOST;
use crate::connection::{Shape, exchange};

/// What ends each input, and what it is answered with.
const LAST: &str =
    "\n{\"jsonrpc\":\"2.0\",\"id\":\"last\",\"method\":\"median\",\"params\":{\"numbers\":[1,3,2,2]}}\n";
const LAST_ANSWER: &str = "{\"jsonrpc\":\"2.0\",\"id\":\"last\",\"result\":{\"value\":2.0,\"low\":2,\"high\":2,\
                           \"count\":4,\"missing\":0,\"warnings\":[]}}";
const CODES: [i64; 10] = [-32700, -32600, -32601, -32602, -32603, -32000, -32001, -32002, -32003, -32004];

/// The ids of the replies that come in one line, sorted; those of a batch are told from a single one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    One(String),
    Batch(Vec<String>),
}

/// Lines of a client; see the module.
pub fn lines(data: &[u8]) -> u64 {
    let data = &data[..data.len().min(MOST)];
    let Some((&shape, data)) = data.split_first() else { return 0 };
    let shape = Shape::of(shape);
    let bytes = [data, LAST.as_bytes()].concat();
    let heard = exchange(&shape, &bytes, async |stream, limits| {
        wire::json_server(stream, limits, METHODS, &Decoder::default())
    });

    let Due { mut lines, closes, seen, .. } = due(&bytes, shape.limits.frame, shape.limits.in_flight);
    let heard = std::str::from_utf8(&heard).unwrap();
    assert!(heard.is_empty() || heard.ends_with('\n'), "a line is cut off: {heard:?}");
    let mut replies: Vec<_> = heard.lines().map(reply).collect();
    replies.sort();
    lines.sort();
    assert_eq!(replies, lines, "{heard}\nto {}", String::from_utf8_lossy(&bytes));
    assert!(closes || heard.lines().any(|line| line == LAST_ANSWER), "the last is not right: {heard}");
    seen
}

/// A line of replies.
fn reply(line: &str) -> Line {
    if line.starts_with('[') {
        let replies: Vec<&RawValue> = serde_json::from_str(line).unwrap();
        let mut ids: Vec<_> = replies.iter().map(|reply| id_of(reply.get())).collect();
        ids.sort();
        Line::Batch(ids)
    } else {
        Line::One(id_of(line))
    }
}

/// The id of a reply, which must be one of either version.
fn id_of(text: &str) -> String {
    let members = collect(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let (names, members): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    // The id is as it was written: it need not be a string that can be read.
    let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap();
    let names: Vec<_> = names.iter().map(|name| &**name).collect();
    let id = match (&names[..], &members[..]) {
        (["jsonrpc", "id", "result"], [_, id, result]) => {
            assert!(!value(result).is_null(), "{text}");
            id
        }
        (["jsonrpc", "id", "error"], [_, id, error]) => {
            let error = value(error);
            let code = error["code"].as_i64().unwrap();
            assert!(CODES.contains(&code) && error["message"].is_string(), "{text}");
            assert!(error["data"]["kind"].is_string() && error["data"]["kind"] != "internal", "{text}");
            id
        }
        (["id", "result", "error"], [id, result, error]) => {
            let (result, error) = (value(result), value(error));
            let failed = error.as_str().is_some_and(|error| !error.starts_with("internal: "));
            assert!(if result.is_null() { failed } else { error.is_null() }, "{text}");
            id
        }
        _ => panic!("no reply: {text}"),
    };
    id.get().to_owned()
}

/// What the service owes.
struct Due {
    lines: Vec<Line>,
    /// Whether it hears no more after some line.
    closes: bool,
    spoke_one: bool,
    seen: u64,
}

/// What becomes of a request.
enum Answer {
    /// A reply with this id.
    To(String),
    Nothing,
    /// No request, of which not even the version is known: a reply with this id, unless version 1 was spoken before.
    Unless(String),
}

const NULL: &str = "null";

fn due(bytes: &[u8], longest: usize, most: usize) -> Due {
    let mut due = Due { lines: Vec::new(), closes: false, spoke_one: false, seen: 0 };
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii_start();
        if line.len() > longest {
            due.closes = true;
            if !due.spoke_one {
                due.lines.push(Line::One(NULL.to_owned()));
            }
            return due;
        }
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        due.seen += 1;
        let text = std::str::from_utf8(line).ok();
        let batch = text.filter(|text| text.starts_with('['));
        let batch = batch.map(|text| serde_json::from_str::<Vec<&RawValue>>(text).unwrap_or_default());
        let Some(batch) = batch else {
            let answer = text.map_or(Answer::Unless(NULL.to_owned()), |text| due.request(text));
            if due.single(answer) {
                return due;
            }
            continue;
        };
        if batch.is_empty() || batch.len() > most {
            if due.single(Answer::Unless(NULL.to_owned())) {
                return due;
            }
            continue;
        }
        let answer = |member: &RawValue| match due.request(member.get()) {
            Answer::To(id) | Answer::Unless(id) => Some(id),
            Answer::Nothing => None,
        };
        let mut ids: Vec<_> = batch.into_iter().filter_map(answer).collect();
        if !ids.is_empty() {
            ids.sort();
            due.lines.push(Line::Batch(ids));
        }
    }
    due
}

impl Due {
    /// Whether the connection ends there.
    fn single(&mut self, answer: Answer) -> bool {
        match answer {
            Answer::Unless(_) if self.spoke_one => self.closes = true,
            Answer::To(id) | Answer::Unless(id) => self.lines.push(Line::One(id)),
            Answer::Nothing => {}
        }
        self.closes
    }

    fn request(&mut self, text: &str) -> Answer {
        let nobody = Answer::Unless(NULL.to_owned());
        let Ok(members) = collect(text) else { return nobody };
        let of = |wanted: &'static str| {
            members.iter().filter(move |(name, _)| name == wanted).map(|(_, raw)| raw.get())
        };
        let known = ["jsonrpc", "id", "method", "params", "deadline_ms", "trace_id"];
        if known.iter().any(|name| of(name).count() > 1) {
            return nobody;
        }
        let [version, id, method] = ["jsonrpc", "id", "method"].map(|name| of(name).next());
        let one = version.is_none() && method.is_some();
        let fit = |id: &&str| id.len() <= JSON_ID && !id.starts_with(['{', '[', 't', 'f']);
        let told = id.filter(fit).unwrap_or(NULL).to_owned();
        if !one && version != Some("\"2.0\"") {
            return Answer::Unless(told);
        }
        self.spoke_one |= one;
        let request = method.is_some_and(|method| method.starts_with('"')) && id.is_none_or(|id| fit(&id));
        if request && (id.is_none() || one && id == Some(NULL)) { Answer::Nothing } else { Answer::To(told) }
    }
}

/// The members of an object, all of them.
fn collect(text: &str) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(Name(name)) = map.next_key()? {
                members.push((name, map.next_value()?));
            }
            Ok(members)
        }
    }
    #[derive(Deserialize)]
    struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(Members)?;
    deserializer.end()?;
    Ok(members)
}

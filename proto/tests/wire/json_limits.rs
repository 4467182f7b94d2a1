//! What a client that speaks JSON may cost: requests in flight and held, batches, replies that nobody takes.

use std::io::ErrorKind;

use serde_json::{Value, json};
use task_proto::limits::Limits;
use tokio::io::AsyncWriteExt;

use crate::json::Json;
use crate::local;
use crate::support::*;

fn request(id: u32, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

fn batch(requests: impl IntoIterator<Item = String>) -> String {
    format!("[{}]\n", Vec::from_iter(requests).join(","))
}

#[test]
fn a_batch_has_as_many_requests_as_may_be_in_flight_and_a_larger_one_is_one_error() {
    local(async {
        let mut json = Json::new(&Limits { in_flight: 4, ..Limits::default() });
        let of = |count| batch((0..count).map(|id| request(id, "wait", &json!({ "name": id }))));
        json.send(&of(5)).await;
        let refused = json.value().await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32600)));
        json.handler.release.add_permits(4);
        json.send(&of(4)).await;
        assert_eq!(json.value().await.as_array().map(Vec::len), Some(4));
        // Nothing of the first was executed.
        for event in 0..8 {
            assert!(matches!(json.event().await, Event::Started(..4) | Event::Ended(..4)), "{event}");
        }
        // However many there are: neither are they all kept, nor is each answered.
        json.send(&batch((0..100_000).map(|_| "1".into()))).await;
        assert_eq!(json.value().await["error"]["code"], -32600);
    });
}

#[test]
fn the_replies_of_a_batch_fit_a_line_and_the_rest_are_told_so() {
    local(async {
        let mut json = Json::new(&Limits { frame: 8192, ..Limits::default() });
        json.send(&batch((0..10).map(|id| request(id, "grow", &json!({ "bytes": 3000 }))))).await;
        let line = json.line().await;
        assert!(line.len() <= 8192, "{}", line.len());
        let replies: Vec<Value> = serde_json::from_str(&line).unwrap();
        let refused = replies.iter().filter(|reply| reply["error"]["code"] == -32003).count();
        let answered = replies.iter().filter(|reply| reply["result"].is_string()).count();
        assert_eq!((answered, refused), (2, 8));
        // However many they are, there is room for the rest to be told.
        for (count, bytes) in [(40, 100), (30, 500), (30, 250), (3, 9000), (12, 600)] {
            json.send(&batch((0..count).map(|id| request(id, "grow", &json!({ "bytes": bytes }))))).await;
            let line = json.line().await;
            assert!(line.len() <= 8192, "{count} of {bytes}: {}", line.len());
            let replies: Vec<Value> = serde_json::from_str(&line).unwrap();
            assert_eq!(replies.len(), count as usize);
        }
    });
}

#[test]
fn replies_that_wait_for_their_batches_are_bounded_together() {
    local(async {
        let limits = Limits { held: 20_000, in_flight: 8, ..Limits::default() };
        let mut json = Json::new(&limits);
        // Each waits for one call that does not end, with a reply that has.
        for id in 0..5 {
            let waits = request(id, "wait", &json!({ "name": id }));
            json.send(&batch([waits, request(100 + id, "grow", &json!({ "bytes": 6000 }))])).await;
        }
        for _ in 0..5 {
            json.event().await;
        }
        json.send(&(request(7, "grow", &json!({})) + "\n")).await;
        assert_eq!(json.value().await["id"], 7, "the others are answered as far as they can be");
        json.handler.release.add_permits(5);
        let mut refused = 0;
        for _ in 0..5 {
            let replies = json.value().await;
            refused +=
                replies.as_array().unwrap().iter().filter(|reply| reply["error"]["code"] == -32003).count();
        }
        assert_eq!(refused, 2, "three times 6,000 bytes fit the limit");
    });
}

#[test]
fn a_client_that_writes_everything_before_it_reads_gets_every_answer() {
    local(async {
        let mut json = Json::new(&Limits::default());
        let lines: String =
            (0..10_000).map(|id| request(id, "grow", &json!({ "bytes": 100 })) + "\n").collect();
        json.send(&lines).await;
        json.finish().await;
        for _ in 0..10_000 {
            assert!(json.value().await["result"].is_string());
        }
        assert_eq!(json.line().await, "");
    });
}

#[test]
fn what_is_kept_for_a_client_that_reads_nothing_is_bounded_and_nothing_of_it_is_lost() {
    local(async {
        for line in ["1\n".to_owned(), request(1, "grow", &json!({ "bytes": 1000 })) + "\n"] {
            let limits = Limits { held: 64 * 1024, in_flight: 4, ..Limits::default() };
            let mut json = Json::new(&limits);
            let (mut sent, mut stuck) = (0, 0);
            while stuck < 200 && sent < 200_000 {
                match json.stream.get_mut().try_write(line.as_bytes()) {
                    Ok(count) => {
                        assert_eq!(count, line.len());
                        (sent, stuck) = (sent + 1, 0);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        stuck += 1;
                        tokio::task::yield_now().await;
                    }
                }
            }
            assert!(sent < 200_000, "it reads without end");
            json.finish().await;
            let mut answered = 0;
            while !json.line().await.is_empty() {
                answered += 1;
            }
            assert_eq!(answered, sent);
        }
    });
}

#[test]
fn calls_beyond_those_in_flight_wait_for_their_turn() {
    local(async {
        let mut json = Json::new(&Limits { in_flight: 2, ..Limits::default() });
        for id in 1..=3 {
            json.send(&(request(id, "wait", &json!({ "name": id })) + "\n")).await;
        }
        assert_eq!((json.event().await, json.event().await), (Event::Started(1), Event::Started(2)));
        json.handler.release.add_permits(1);
        assert_eq!(json.value().await["result"], 1);
        assert_eq!((json.event().await, json.event().await), (Event::Ended(1), Event::Started(3)));
    });
}

#[test]
fn a_line_over_the_limit_ends_the_connection_with_the_reason_once_all_others_are_answered() {
    local(async {
        let mut json = Json::new(&Limits { frame: 4096, ..Limits::default() });
        json.send(&(request(1, "wait", &json!({ "name": 1 })) + "\n")).await;
        assert_eq!(json.event().await, Event::Started(1));
        let long = "[".repeat(5000);
        json.send(&long).await;
        // What is written from here on was never executed.
        soon(async { while json.stream.get_mut().write_all(b"[").await.is_ok() {} }).await;
        json.handler.release.add_permits(1);
        assert_eq!(json.value().await["result"], 1);
        let notice = json.value().await;
        assert_eq!((&notice["id"], &notice["error"]["code"]), (&Value::Null, &json!(-32004)));
        let told = notice["error"]["message"].as_str().unwrap();
        assert!(told.contains("a line is over the limit of 4096 bytes"), "{told}");
        assert!(matches!(soon(json.end).await.unwrap(), End::Failed));
    });
}

//! What programs and files of other builds hold: documents of `frames/`, which are never changed.

use serde_json::Value;
use task_host::record::Record;

use crate::invocation::Home;
use crate::serve::{serves, status, stopped};

const BREACH: &str = "programs that read it cannot be told: let the member stand, and add another";

#[test]
fn a_log_of_an_older_build_is_read_and_written_again_as_it_was() {
    for line in include_str!("../frames/log-1.jsonl").lines() {
        let record = Record::from_line(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        let now: Value = serde_json::from_slice(&record.to_line()).unwrap();
        let then: Value = serde_json::from_str(line).unwrap();
        for (name, then) in then.as_object().unwrap() {
            assert_eq!(now.get(name), Some(then), "{name} of {line}: {BREACH}");
        }
    }
}

#[test]
fn status_has_every_member_that_it_once_had() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let now = status(&home);
    stopped(service);
    has_the_members(&serde_json::from_str(include_str!("../frames/status-1.json")).unwrap(), &now, "status");
}

/// The same names, of the same kinds; null is of any.
fn has_the_members(then: &Value, now: &Value, place: &str) {
    let same = match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, then) in then {
                let place = format!("{place}.{name}");
                let Some(now) = now.get(name) else { panic!("{place} is gone: {BREACH}") };
                has_the_members(then, now, &place);
            }
            true
        }
        (Value::Null, _) | (_, Value::Null) => true,
        _ => std::mem::discriminant(then) == std::mem::discriminant(now),
    };
    assert!(same, "{place} was {then} and is {now}: {BREACH}");
}

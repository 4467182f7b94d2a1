//! Tests of the module above.

use super::*;
use crate::journal::tests::{records, silent};
use crate::record::Record;
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::net::unix::pipe;

/// Runs with the writing ends of a worker's two pipes.
fn captured<T>(work: impl AsyncFnOnce(Capture, pipe::Sender, pipe::Sender) -> T) -> (T, Vec<Record>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let journal = silent();
        let (out, stdout) = pipe::pipe().unwrap();
        let (err, stderr) = pipe::pipe().unwrap();
        let result = work(Capture::start(stdout, stderr, "task-rpc", 4121, &journal), out, err).await;
        (result, records(&journal))
    })
}

/// All that comes of a worker that writes this to standard error and exits.
fn stderr(bytes: &[u8]) -> (Captured, Vec<Record>) {
    captured(async |capture, out, err| {
        drop(out);
        write(&err, bytes).await;
        drop(err);
        capture.finish().await
    })
}

async fn write(pipe: &pipe::Sender, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        pipe.writable().await.unwrap();
        match pipe.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn a_workers_log_line_keeps_its_level_and_fields() {
    let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","fields":{"message":"answered","method":"median","us":41,"trace_id":"ab12"},"target":"stats","span":{"name":"x"}}"#;
    let (captured, records) = stderr(format!("{line}\n").as_bytes());
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.level, record.target.as_str(), record.message.as_str()),
        (Level::Warn, "stats", "answered")
    );
    assert_eq!(serde_json::to_string(&record.fields).unwrap(), r#"{"method":"median","us":41}"#);
    assert_eq!(record.trace_id.as_deref(), Some("ab12"));
    assert_eq!(captured, Captured { tail: vec!["answered method=median us=41".into()], closed: true });
}

#[test]
fn a_worker_cannot_speak_for_others() {
    let line = r#"{"timestamp":"2000-01-01T00:00:00Z","time":"2000-01-01T00:00:00Z","run":"forged","pid":1,"seq":99,"source":"task","stream":"stdout","level":"INFO","target":"t","message":"top","fields":{"message":"m","source":"task"}}"#;
    let before = crate::record::now();
    let (_, records) = stderr(format!("{line}\n").as_bytes());
    let record = &records[0];
    assert!(record.time >= before);
    assert_eq!((record.run.as_str(), record.pid, record.seq), ("9f3c0000", 4121, 1));
    assert_eq!((record.source.as_str(), record.stream), ("task-rpc", Some(Stream::Stderr)));
    assert_eq!(record.message, "m");
}

#[test]
fn a_line_that_is_no_log_line_is_kept_as_it_is() {
    let deep =
        format!("{{\"level\":\"INFO\",\"fields\":{{\"a\":{}1{}}}}}", "[".repeat(5000), "]".repeat(5000));
    let lines =
        ["thread panicked", r#"{"level":"INFO"}"#, r#"{"level":"LOUD","fields":{}}"#, "{", "", "5", &deep];
    let (_, records) = stderr((lines.join("\n") + "\n").as_bytes());
    assert_eq!(records.iter().map(|record| record.message.as_str()).collect::<Vec<_>>(), lines);
    assert!(records.iter().all(|record| record.level == Level::Warn && record.fields.is_empty()));
}

#[test]
fn raw_lines_of_standard_output_are_information() {
    let ((), records) = captured(async |capture, out, err| {
        write(&out, b"hello\n").await;
        drop((out, err));
        capture.finish().await;
    });
    assert_eq!((records[0].level, records[0].stream), (Level::Info, Some(Stream::Stdout)));
}

#[test]
fn a_long_line_comes_in_parts_that_cut_no_character() {
    let line = "é".repeat(20_000) + "x"; // the limit lies within a character after the first byte
    let (_, records) = stderr(format!("a{line}\nnext\n").as_bytes());
    let whole: String = records[..3].iter().map(|record| record.message.as_str()).collect();
    assert_eq!(whole, format!("a{line}"));
    assert_eq!(records.iter().map(|r| r.partial).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(records.iter().all(|record| record.message.len() <= LOG_LINE && !record.escaped));
}

#[test]
fn a_line_of_exactly_the_limit_is_whole_and_garbage_is_cut_at_the_limit() {
    let (_, records) = stderr(&[&[b'x'; LOG_LINE][..], b"\n", &vec![0x80; LOG_LINE + 1], b"\n"].concat());
    assert_eq!(records.iter().map(|r| r.partial).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(records[1].message_bytes().len(), LOG_LINE);
}

#[test]
fn bytes_that_are_no_utf8_and_a_last_line_without_newline_are_kept() {
    let (captured, records) = stderr(b"\xff\xfe\\ \x1b[2Jend");
    assert_eq!(&*records[0].message_bytes(), b"\xff\xfe\\ \x1b[2Jend");
    assert_eq!(captured.tail, [r"\xff\xfe\\ \u{1b}[2Jend"]);
}

#[test]
fn the_tail_is_the_last_lines_within_both_bounds() {
    let many = (0..100).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
    let (captured, _) = stderr(many.as_bytes());
    assert_eq!(captured.tail, (80..100).map(|n| format!("line {n}")).collect::<Vec<_>>());
    let (captured, _) = stderr("é".repeat(50_000).as_bytes());
    let bytes: usize = captured.tail.iter().map(String::len).sum();
    assert!(bytes > 0 && bytes <= STDERR_TAIL, "{bytes}");
}

#[test]
fn a_grandchild_that_holds_the_pipe_is_not_waited_for_but_what_was_written_is_kept() {
    let begin = Instant::now();
    let (captured, records) = captured(async |capture, out, err| {
        write(&err, b"whole\nbegun").await;
        let captured = capture.finish().await;
        drop((out, err)); // held until here
        captured
    });
    assert!(begin.elapsed() < PIPE_TAIL * 20, "took {:?}", begin.elapsed());
    assert_eq!(captured, Captured { tail: vec!["whole".into(), "begun".into()], closed: false });
    assert_eq!(records.len(), 2);
}

#[test]
fn a_grandchild_that_never_stops_writing_does_not_hold_the_end() {
    let begin = Instant::now();
    let (closed, _) = captured(async |capture, out, err| {
        let mut blocking = std::fs::File::from(err.into_blocking_fd().unwrap());
        let flood = std::thread::spawn(move || while blocking.write_all(&[b'x'; 8192]).is_ok() {});
        let captured = capture.finish().await;
        drop(out);
        tokio::task::spawn_blocking(|| flood.join().unwrap()).await.unwrap();
        captured.closed
    });
    assert!(!closed);
    assert!(begin.elapsed() < PIPE_TAIL * 50, "took {:?}", begin.elapsed());
}

#[test]
fn a_worker_that_floods_never_blocks_and_leaves_the_host_free_for_other_work() {
    let (ticks, records) = captured(async |capture, out, err| {
        let mut blocking = std::fs::File::from(err.into_blocking_fd().unwrap());
        let flood = tokio::task::spawn_blocking(move || {
            let line = [&[b'x'; 99][..], b"\n"].concat().repeat(1000);
            (0..200).try_for_each(|_| blocking.write_all(&line))
        });
        let mut ticks = 0;
        let other = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                ticks += 1;
            }
        };
        tokio::select! {
            written = flood => written.unwrap().unwrap(),
            () = other => {}
        }
        drop(out);
        assert!(capture.finish().await.closed);
        ticks
    });
    assert!(ticks > 50, "only {ticks} ticks"); // 200 as it is, 2 to 22 when it does not yield
    let dropped = records[0].fields["dropped"].as_u64().unwrap();
    assert_eq!(dropped + records.len() as u64 - 1, 200_000, "every line is kept or counted");
}

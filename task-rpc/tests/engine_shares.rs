//! What the calls of one process may take of what all share.

#![expect(clippy::unwrap_used, reason = "a test: what is not there fails it")]

use std::fs::File;
use std::io::{PipeReader, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::poll;
use task_proto::limits::{INGESTS, READERS};
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::wire::Attachment;
use task_worker::engine::{Budget, Engine, Ingests, Simd, Statistic};

/// Much longer than anything here takes: it ends a test that would hang.
const HANG: Duration = Duration::from_mins(1);

fn attached() -> Source {
    Source::Attached { attached: 0, format: Format::Text }
}

fn query(sources: impl Into<Vec<Source>>) -> Query {
    Query { sources: sources.into(), missing: Missing::Error }
}

fn file(text: &str) -> OwnedFd {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    file.into()
}

#[tokio::test]
async fn a_process_that_waits_for_hundreds_of_inputs_keeps_no_other_from_reading() {
    let engine = Engine::new(Simd::best(), Budget::new(Some(1 << 30)));
    let count = |ingests: Ingests, input: OwnedFd| async move {
        let input = Arc::new(Attachment::from(input));
        let data = ingests.data(query([attached()]), Statistic::Mean, |_| Some(Arc::clone(&input))).await?;
        Ok::<_, task_proto::fault::Fault>(data.sequence().count())
    };
    let (idle, mut writers): (Vec<PipeReader>, Vec<_>) = (0..READERS + 50).map(|_| pipe().unwrap()).unzip();
    let of_one = idle.into_iter().map(|input| count(Ingests::new(engine.of(1), None), input.into()));
    let mut of_one = Box::pin(join_all(of_one));
    assert!(poll!(&mut of_one).is_pending());

    let other = count(Ingests::new(engine.of(2), None), file("4 5 6"));
    let other = tokio::time::timeout(HANG, other).await.expect("it waits for the other process's inputs");
    assert_eq!(other.unwrap(), 3);
    // In any order: those in line have their turn as others end.
    for writer in &mut writers {
        writer.write_all(b"7 8").unwrap();
    }
    drop(writers);
    let counts = tokio::time::timeout(HANG, of_one).await.expect("some had no turn");
    assert!(counts.iter().all(|count| *count == Ok(2)), "{counts:?}");
}

#[tokio::test]
async fn a_long_request_is_not_compared_with_all_that_are_kept() {
    let numbers =
        |last: i64| Source::Numbers((0..50_000).map(|_| Number::Int(0)).chain([Number::Int(last)]).collect());
    let engine = Engine::new(Simd::best(), Budget::new(Some(8 << 30)));
    let (idle, _writer) = pipe().unwrap();
    let input = Arc::new(Attachment::from(OwnedFd::from(idle)));
    let place = |ingests: &Ingests, last: i64| {
        let query = query([numbers(last), attached()]);
        let (ingests, input) = (ingests.clone(), Arc::clone(&input));
        let began = Instant::now();
        let mut call =
            Box::pin(async move { ingests.data(query, Statistic::Mean, |_| Some(Arc::clone(&input))).await });
        let waits = futures::FutureExt::now_or_never(&mut call).is_none();
        assert!(waits, "the pipe has no end yet");
        (began.elapsed(), call)
    };
    // The least of some tries: the machine may have been busy in any of them.
    let mut quickest = [Duration::MAX; 2];
    for _ in 0..5 {
        let ingests = Ingests::new(engine.clone(), None);
        let calls: Vec<_> = (0..INGESTS as i64).map(|last| place(&ingests, last)).collect();
        quickest[0] = quickest[0].min(calls[0].0);
        quickest[1] = quickest[1].min(calls[INGESTS - 1].0);
    }
    let [first, last] = quickest;
    assert!(last < 4 * first, "alone it takes {first:?}, beside {INGESTS} others {last:?}");
}

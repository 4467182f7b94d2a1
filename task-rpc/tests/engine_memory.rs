//! What a large array costs a worker: nothing, where it can be used where it is.
//!
//! `TASK_TEST_MB=800` makes it larger.

#![expect(clippy::unwrap_used, reason = "a test: what is not there fails it")]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source};

use support::{Alone, client, context};

/// Whatever a call costs but its numbers: threads, buffers, the connection.
const LITTLE: u64 = 16_000_000;

/// So many bytes of the numbers 0, 1, 2… whose mean comes with them.
fn array(bytes: u64) -> (File, f64) {
    let memfd = memfd_create("array", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(memfd);
    let values = bytes / 8;
    let mut next = 0;
    while next < values {
        let block: Vec<u8> =
            (next..values.min(next + 65_536)).flat_map(|value| (value as f64).to_le_bytes()).collect();
        file.write_all(&block).unwrap();
        next += 65_536;
    }
    seek(&file, SeekFrom::Start(0)).unwrap();
    (file, (values - 1) as f64 / 2.0)
}

/// Memory of the worker's own, in bytes.
fn anonymous(worker: &Alone) -> u64 {
    worker.process.status("RssAnon:").trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn small_integers_take_the_same_memory_however_many_there_are() {
    let worker = Arc::new(Alone::start());
    let (client, outgoing) = client(&worker.socket).await;
    let rise = async |lines: usize| {
        let (read, mut write) = std::io::pipe().unwrap();
        let attached = outgoing.push(Arc::new(OwnedFd::from(read)));
        let query = Query {
            sources: vec![Source::Attached { attached, format: Format::Text }],
            missing: Missing::Error,
        };
        let before = anonymous(&worker);
        let writing = tokio::task::spawn_blocking(move || {
            let some: Vec<_> = (0..100_000).map(|line| (line * 7919 % 1000 - 500).to_string()).collect();
            let some = some.join("\n") + "\n";
            for _ in 0..lines / 100_000 {
                write.write_all(some.as_bytes()).unwrap();
            }
        });
        let median = client.median(context(), query).await.unwrap().unwrap();
        writing.await.unwrap();
        assert_eq!((median.count, median.value), (lines as u64, Number::Float(-0.5)));
        let rise = anonymous(&worker).saturating_sub(before);
        println!("{lines} lines: RssAnon rose by {rise}");
        rise
    };
    // What the threads and their buffers take is there after the first.
    rise(1_000_000).await;
    let rise = rise(20_000_000).await;
    assert!(rise < LITTLE, "{rise} bytes");
}

#[tokio::test]
async fn the_mean_of_a_large_sealed_array_takes_no_memory_of_the_workers_own() {
    let bytes = std::env::var("TASK_TEST_MB").map_or(200, |mb| mb.parse().unwrap()) * 1_000_000;
    let (array, expected) = array(bytes);
    let worker = Arc::new(Alone::start());
    let (client, outgoing) = client(&worker.socket).await;
    let mean = async |attached| {
        let query = Query {
            sources: vec![Source::Attached { attached, format: Format::F64 }],
            missing: Missing::Error,
        };
        let mut context = context();
        context.deadline += Duration::from_secs(bytes / 10_000_000);
        let (before, began, done) = (anonymous(&worker), Instant::now(), Arc::new(AtomicBool::new(false)));
        let watch = {
            let (done, worker) = (Arc::clone(&done), Arc::clone(&worker));
            tokio::task::spawn_blocking(move || {
                let mut most = 0;
                while !done.load(Relaxed) {
                    most = most.max(anonymous(&worker));
                }
                most
            })
        };
        let mean = client.mean(context, query).await;
        done.store(true, Relaxed);
        assert_eq!(mean.unwrap().unwrap().value, Number::Float(expected));
        let most = watch.await.unwrap().max(anonymous(&worker));
        let rise = most.saturating_sub(before);
        println!("{bytes} bytes: RssAnon rose by {rise} in {:?}", began.elapsed());
        rise
    };
    let array = Arc::new(OwnedFd::from(array));
    let unsealed = outgoing.push(Arc::clone(&array));
    assert!(mean(unsealed).await >= bytes, "what can change is read");
    client.release(context(), unsealed).await.unwrap().unwrap();
    fcntl_add_seals(&array, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .unwrap();
    let rise = mean(outgoing.push(array)).await;
    assert!(rise < LITTLE, "{rise} bytes");
}

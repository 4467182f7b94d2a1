//! 256 MiB of floats in a sealed memfd, handed to `task-rpc`, beside summing them where they lie.
//!
//! Each round has a new memfd and a new connection. The first call, whose attachment it is, has to map it: `attached`.
//! Later calls ask for the mean of the same attachment and one number more, another one each time: so the service finds
//! the mapping of the earlier call, but no result that it could have kept, and computes the whole anew: `mapped`.
#![expect(unsafe_code, reason = "mapping a memfd and viewing it as floats")]

use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tarpc::client::Config;
use tarpc::context;
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source, StatsClient};
use task_proto::wire::{self, FdStream, Outgoing};

use crate::Failure;

const COUNT: usize = 32 << 20;
const BYTES: usize = COUNT * size_of::<f64>();
/// Calls of a round that find a mapping.
const MAPPED: u32 = 3;

/// Prints a line a round, in milliseconds: in place, attached, each mapped.
pub(crate) async fn measure(socket: &Path, rounds: u32) -> Result<(), Failure> {
    // Or the next round would wait while this one's pages are freed.
    let mut kept = Vec::new();
    for _ in 0..rounds {
        let memfd = Arc::new(filled()?);
        let array = Array::map(&memfd, ProtFlags::READ)?;
        let mut inside: Vec<_> = (0..=MAPPED).map(|_| timed(|| array.sum())).collect();
        let rounded = inside[0].1 / COUNT as f64;
        // The first one finds its own mapping cold.
        inside[1..].sort_unstable_by_key(|(time, _)| *time);
        let in_place = inside[inside.len() / 2].0;

        let (client, outgoing) = connect(socket).await?;
        client.ping(context::current()).await?;
        let began = Instant::now();
        let attached = Source::Attached { attached: outgoing.push(Arc::clone(&memfd)), format: Format::F64 };
        let mean = ask(&client, vec![attached.clone()]).await?;
        let mut times = vec![in_place, began.elapsed()];
        if (mean - rounded).abs() > 1e-9 {
            return Err(format!("a wrong answer: {mean}, not {rounded}").into());
        }
        for extra in 0..MAPPED {
            let more = Source::Numbers(vec![Number::Float(f64::from(extra))].into());
            let began = Instant::now();
            ask(&client, vec![attached.clone(), more]).await?;
            times.push(began.elapsed());
        }
        let line: Vec<_> = times.iter().map(|time| format!("{:.3}", time.as_secs_f64() * 1e3)).collect();
        println!("{}", line.join(" "));
        kept.push((client, outgoing));
    }
    Ok(())
}

async fn connect(socket: &Path) -> Result<(StatsClient, Outgoing), Failure> {
    let limits = Limits::default();
    let transport = wire::client(FdStream::new(wire::connect(socket).await?, limits.attachments)?, &limits);
    let outgoing = transport.outgoing().clone();
    Ok((StatsClient::new(Config::default(), transport).spawn(), outgoing))
}

async fn ask(client: &StatsClient, sources: Vec<Source>) -> Result<f64, Failure> {
    let mut context = context::current();
    context.deadline = Instant::now() + Duration::from_mins(1);
    match client.mean(context, Query { sources, missing: Missing::Error }).await??.value {
        Number::Float(float) => Ok(float),
        Number::Int(int) => Ok(int as f64),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let result = work();
    (began.elapsed(), result)
}

/// A sealed memfd of floats in [0, 1).
fn filled() -> Result<OwnedFd, Failure> {
    let memfd = memfd_create("array", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memfd, BYTES as u64)?;
    let mut array = Array::map(&memfd, ProtFlags::READ | ProtFlags::WRITE)?;
    let mut state = 1_u64;
    for value in array.values_mut() {
        // A linear congruence will do: they have to be different, not random.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *value = (state >> 11) as f64 / (1_u64 << 53) as f64;
    }
    // A writable mapping would stand against the seals.
    drop(array);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&memfd, seals)?;
    Ok(memfd)
}

/// A mapping of [`COUNT`] floats.
struct Array {
    base: *mut f64,
}

impl Array {
    fn map(memfd: &OwnedFd, access: ProtFlags) -> Result<Self, Failure> {
        let flags = if access.contains(ProtFlags::WRITE) { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { mmap(std::ptr::null_mut(), BYTES, access, flags, memfd, 0)? };
        Ok(Array { base: base.cast() })
    }

    fn values(&self) -> &[f64] {
        // SAFETY: page-aligned, COUNT floats long, and there until `self` is dropped; every bit pattern is a float. Nobody
        // writes while it is borrowed: this process made the memfd and has one mapping of it at a time.
        unsafe { std::slice::from_raw_parts(self.base, COUNT) }
    }

    fn values_mut(&mut self) -> &mut [f64] {
        // SAFETY: as above, and called on a mapping that may be written alone.
        unsafe { std::slice::from_raw_parts_mut(self.base, COUNT) }
    }

    /// The plain sum, by as many threads as there are processors: what reading costs, in no exact order.
    fn sum(&self) -> f64 {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = COUNT.div_ceil(threads);
        thread::scope(|scope| {
            let parts: Vec<_> =
                self.values().chunks(share).map(|part| scope.spawn(|| black_box(sum(part)))).collect();
            parts.into_iter().filter_map(|part| part.join().ok()).sum()
        })
    }
}

/// Many sums side by side, for the compiler to keep in vector registers.
fn sum(values: &[f64]) -> f64 {
    let (chunks, rest) = values.as_chunks::<32>();
    let mut sums = [0.0; 32];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum::<f64>() + rest.iter().sum::<f64>()
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: the address and length are those that `map` had, and no reference outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), BYTES) };
    }
}

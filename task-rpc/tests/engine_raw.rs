//! Raw values: read from whatever holds them, or used where they are, with the same answers.

#![expect(clippy::unwrap_used, reason = "a test: what is not there fails it")]

use std::fs::File;
use std::io::{Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, fstat, ftruncate,
    memfd_create, seek,
};
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::MAPPINGS;
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::wire::Attachment;
use task_worker::engine::{Budget, Data, Engine, Ingests, Simd, Statistic};

/// Much longer than anything here takes: it ends a test that would hang.
const HANG: Duration = Duration::from_mins(1);
const BLOCK: usize = 128 * 1024;
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn engine() -> Ingests {
    Ingests::new(Engine::new(Simd::best(), Budget::new(Some(1 << 30))), None)
}

fn query(sources: impl Into<Vec<Source>>, missing: Missing) -> Query {
    Query { sources: sources.into(), missing }
}

fn one(format: Format) -> Query {
    query([Source::Attached { attached: 0, format }], Missing::Error)
}

fn skipping(format: Format) -> Query {
    query([Source::Attached { attached: 0, format }], Missing::Skip)
}

async fn ingested(ingests: &Ingests, query: Query, inputs: &[Arc<Attachment>]) -> Result<Arc<Data>, Fault> {
    let data = ingests.data(query, Statistic::Mean, |number| inputs.get(number as usize).cloned());
    tokio::time::timeout(HANG, data).await.expect("it hangs")
}

fn shared(input: OwnedFd) -> Arc<Attachment> {
    Arc::new(input.into())
}

/// One attachment, with an engine of its own.
async fn ask(query: Query, input: impl Into<OwnedFd>) -> Result<Arc<Data>, Fault> {
    ingested(&engine(), query, &[shared(input.into())]).await
}

fn floats(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(f64::to_le_bytes).collect()
}

fn ints(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    values.into_iter().flat_map(i64::to_le_bytes).collect()
}

fn file(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    seek(&file, SeekFrom::Start(0)).unwrap();
    file.into()
}

fn memfd(name: &str, bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(memfd);
    file.write_all(bytes).unwrap();
    seek(&file, SeekFrom::Start(0)).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    memfd("sealed", bytes, SEALS)
}

/// Waits until no memfd of this name is mapped: the thread that has read one may have it for a moment after the answer.
async fn unmapped(name: &str) {
    let unmapped = async {
        while mapped(name) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, unmapped).await.expect("it stays mapped");
}

/// How often this process has mapped a memfd of this name.
fn mapped(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(&format!("/memfd:{name} "))).count()
}

/// Something that ends when it has given these bytes.
fn streams(bytes: &[u8]) -> [OwnedFd; 3] {
    let (pipe, mut writer) = pipe().unwrap();
    let (socket, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let fifo = File::options().read(true).write(true).open(&path).unwrap();
    let mut to_fifo = File::options().write(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    drop(fifo);
    for writer in [&mut writer as &mut dyn Write, &mut peer, &mut to_fifo] {
        writer.write_all(bytes).unwrap();
    }
    [pipe.into(), socket.into(), reader.into()]
}

#[tokio::test]
async fn raw_values_of_every_kind_of_attachment() {
    for (format, bytes) in [
        (Format::F64, floats([1.0, 5.0, 3.0, 1.0, 13.0, 5.0, 2.0, 4.0])),
        (Format::I64, ints([1, 5, 3, 1, 13, 5, 2, 4])),
    ] {
        let unsealed = memfd("unsealed", &bytes, SealFlags::empty());
        for input in [file(&bytes), unsealed, sealed(&bytes)].into_iter().chain(streams(&bytes)) {
            let data = ask(one(format), input).await.unwrap();
            assert_eq!(Number::Float(data.sequence().mean()), Number::Float(4.25));
            let median = data.median().await.unwrap();
            assert_eq!(median.value, Number::Float(3.5));
            let number = |int: i64| if format == Format::I64 { int.into() } else { (int as f64).into() };
            assert_eq!((median.low, median.high), (number(3), number(4)));
            assert_eq!(data.modes().await.unwrap().values, [number(1), number(5)]);
        }
    }
}

/// Where a part of a sequence comes from.
#[derive(Debug, Clone, Copy)]
enum Way {
    Request,
    Text,
    File,
    Pipe,
    Sealed,
}

fn any_float() -> impl Strategy<Value = f64> {
    let special = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN, 5e-324, 1.0, 1e16, -1e16];
    prop_oneof![any::<f64>(), proptest::sample::select(special.to_vec()), (-3..3).prop_map(f64::from)]
}

fn any_part() -> impl Strategy<Value = (Way, Vec<Number>)> {
    let ways = [Way::Request, Way::Text, Way::File, Way::Pipe, Way::Sealed];
    let int = prop_oneof![any::<i64>(), -3..3_i64, Just(i64::MAX), Just((1 << 53) + 1)];
    let ints = proptest::collection::vec(int.prop_map(Number::Int), 0..40);
    let floats = proptest::collection::vec(any_float().prop_map(Number::Float), 0..40);
    (proptest::sample::select(ways.to_vec()), prop_oneof![ints, floats])
}

/// The part as a source, and what is to be attached for it.
fn source(way: Way, numbers: &[Number], attached: u32) -> (Source, Option<OwnedFd>) {
    let format = if matches!(numbers.first(), Some(Number::Int(_))) { Format::I64 } else { Format::F64 };
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| match *number {
            Number::Int(int) => int.to_le_bytes(),
            Number::Float(float) => float.to_le_bytes(),
        })
        .collect();
    // A float keeps its point: the text of an integer would be one.
    let text: String = numbers
        .iter()
        .map(|number| match number {
            Number::Int(int) => format!("{int}\n"),
            Number::Float(float) => format!("{float:?}\n"),
        })
        .collect();
    let (format, input) = match way {
        Way::Request => return (Source::Numbers(numbers.to_vec().into()), None),
        Way::Text => (Format::Text, file(text.as_bytes())),
        Way::File => (format, file(&bytes)),
        Way::Pipe => {
            let [pipe, ..] = streams(&bytes);
            (format, pipe)
        }
        Way::Sealed => (format, sealed(&bytes)),
    };
    (Source::Attached { attached, format }, Some(input))
}

/// All that can be seen of a sequence, to the bit.
async fn seen(data: Result<Arc<Data>, Fault>) -> Result<String, FaultKind> {
    let bits = |number: Number| match number {
        Number::Int(int) => format!("int {int}"),
        Number::Float(float) if float.is_nan() => "nan".to_owned(),
        Number::Float(float) => format!("float {:x}", float.to_bits()),
    };
    let data = data.map_err(|fault| fault.kind)?;
    let mean = Number::Float(data.sequence().mean());
    let (median, modes) = (data.median().await.unwrap(), data.modes().await.unwrap());
    let values: Vec<_> = modes.values.iter().copied().map(bits).collect();
    let order = (bits(median.low), bits(median.high), values, modes.frequency, modes.total);
    let sequence = data.sequence();
    Ok(format!("{} {order:?} {} of {}", bits(mean), sequence.missing(), sequence.count()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// The numbers of a request are held against exact arithmetic in `engine_oracle`.
    #[test]
    fn parts_of_any_format_are_the_same_sequence_as_the_numbers_themselves(
        parts in proptest::collection::vec(any_part(), 1..5),
        missing in prop_oneof![Just(Missing::Skip), Just(Missing::Error)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let numbers: Vec<_> = parts.iter().flat_map(|(_, numbers)| numbers).copied().collect();
            let expected = engine().data(query([Source::Numbers(numbers.into())], missing), Statistic::Mean, |_| None).await;
            let mut inputs = Vec::new();
            let sources: Vec<_> = parts.iter().map(|(way, numbers)| {
                let (source, input) = source(*way, numbers, inputs.len() as u32);
                inputs.extend(input.map(shared));
                source
            }).collect();
            let got = ingested(&engine(), query(sources, missing), &inputs).await;
            assert_eq!(seen(got).await, seen(expected).await);
        });
    }
}

#[tokio::test]
async fn what_is_sealed_is_used_where_it_is_and_costs_no_memory() {
    let budget = Budget::new(Some(1 << 20));
    let ingests = Ingests::new(Engine::new(Simd::best(), budget.clone()), None);
    let values = 3 * BLOCK + 5;
    let inputs = [shared(memfd("whole", &floats((0..values).map(|value| value as f64)), SEALS))];
    let data = ingested(&ingests, one(Format::F64), &inputs).await.unwrap();
    assert_eq!(mapped("whole"), 1);
    assert_eq!(Number::Float(data.sequence().mean()), Number::Float((values - 1) as f64 / 2.0));
    assert!(budget.used() < 1000, "{} for the request itself", budget.used());
    let fault = data.modes().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::TooLarge, "to sort it into parts costs");

    drop(data);
    assert_eq!(mapped("whole"), 1, "kept for later calls");
    ingests.release(0);
    unmapped("whole").await;
}

#[tokio::test]
async fn what_could_change_shrink_or_allocate_itself_is_read() {
    let bytes = ints(0..10_000);
    let read = async |name: &str, input: OwnedFd| {
        let data = ask(one(Format::I64), input).await.unwrap();
        assert_eq!(
            (mapped(name), Number::Float(data.sequence().mean())),
            (0, Number::Float(4999.5)),
            "{name}"
        );
    };
    for (name, missing) in [
        ("no-seal", SealFlags::SEAL),
        ("no-shrink", SealFlags::SHRINK),
        ("no-grow", SealFlags::GROW),
        ("no-write", SealFlags::WRITE),
    ] {
        read(name, memfd(name, &bytes, SEALS - missing)).await;
    }
    let future = (SEALS - SealFlags::WRITE) | SealFlags::FUTURE_WRITE;
    read("written-by-an-older-mapping", memfd("written-by-an-older-mapping", &bytes, future)).await;

    let mut odd = vec![0; 5];
    odd.extend(&bytes);
    let odd = memfd("odd-offset", &odd, SEALS);
    seek(&odd, SeekFrom::Start(5)).unwrap();
    read("odd-offset", odd).await;
}

/// A sealed memfd of this size without any of its pages, but for as many beyond its end as the second size has.
fn sparse(name: &str, size: u64, beyond: u64) -> OwnedFd {
    let memfd = memfd(name, b"", SealFlags::empty());
    ftruncate(&memfd, size).unwrap();
    if beyond > 0 {
        fallocate(&memfd, FallocateFlags::KEEP_SIZE, size, beyond).unwrap();
    }
    fcntl_add_seals(&memfd, SEALS).unwrap();
    memfd
}

#[tokio::test]
async fn holes_are_read_and_stay_holes() {
    for (name, size, beyond) in
        [("sparse", 8 << 20, 0), ("disguised", 8 << 20, 8 << 20), ("last", 1 << 20, 4096)]
    {
        let input = shared(sparse(name, size, beyond));
        let blocks = fstat(&input).unwrap().st_blocks;
        let data = ingested(&engine(), one(Format::F64), &[Arc::clone(&input)]).await.unwrap();
        assert_eq!(
            (Number::Float(data.sequence().mean()), data.sequence().count()),
            (Number::Float(0.0), size / 8)
        );
        assert_eq!((mapped(name), fstat(&input).unwrap().st_blocks), (0, blocks), "{name}");
    }
}

#[tokio::test]
async fn input_that_is_known_to_be_too_large_is_refused_unread() {
    let size = 1 << 40;
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(size).unwrap();
    let budget = Budget::new(Some(1 << 30));
    for input in [sparse("terabyte", size, 0), on_disk.into()] {
        let ingests = Ingests::new(Engine::new(Simd::best(), budget.clone()), None);
        let input = shared(input);
        let fault = ingested(&ingests, one(Format::F64), &[Arc::clone(&input)]).await.unwrap_err();
        assert_eq!((fault.kind, fault.source_index, fault.column), (FaultKind::TooLarge, Some(0), None));
        assert!(fault.message.contains("--memory"), "{fault}");
        assert!(budget.used() < 1000, "{}", budget.used());
    }
}

#[tokio::test]
async fn pages_that_are_huge_are_read() {
    // As many as there are here: none can be had on most machines, and then there is nothing to read either.
    let Ok(huge) =
        memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB)
    else {
        return eprintln!("skipped: no huge pages");
    };
    if ftruncate(&huge, 2 << 20).and_then(|()| fallocate(&huge, FallocateFlags::empty(), 0, 2 << 20)).is_err()
    {
        return eprintln!("skipped: no huge pages are free");
    }
    fcntl_add_seals(&huge, SEALS).unwrap();
    let data = ask(one(Format::F64), huge).await.unwrap();
    assert_eq!((mapped("huge"), data.sequence().count()), (0, 1 << 18));
}

#[tokio::test]
async fn a_seal_more_does_no_harm() {
    // As Linux gives one to whoever asks for a memfd that cannot be executed: `SEAL_EXEC`.
    let no_exec = MemfdFlags::from_bits_retain(0x8) | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let Ok(memfd) = memfd_create("no-exec", no_exec) else { return eprintln!("skipped: Linux before 6.3") };
    rustix::io::write(&memfd, &ints([1, 2, 3])).unwrap();
    seek(&memfd, SeekFrom::Start(0)).unwrap();
    fcntl_add_seals(&memfd, SEALS).unwrap();
    let data = ask(one(Format::I64), memfd).await.unwrap();
    assert_eq!((mapped("no-exec"), Number::Float(data.sequence().mean())), (1, Number::Float(2.0)));
}

#[tokio::test]
async fn raw_values_begin_at_the_current_offset_which_stays_where_it_is() {
    let bytes = ints([9, 9, 1, 2]);
    for input in [file(&bytes), sealed(&bytes)] {
        seek(&input, SeekFrom::Start(16)).unwrap();
        let same = input.as_fd().try_clone_to_owned().unwrap();
        let ingests = engine();
        let inputs = [shared(input)];
        let data = ingested(&ingests, one(Format::I64), &inputs).await.unwrap();
        assert_eq!((data.sequence().count(), Number::Float(data.sequence().mean())), (2, Number::Float(1.5)));
        assert_eq!(rustix::fs::tell(&same).unwrap(), 16);
        for beyond in [32, 40, 4000] {
            seek(&same, SeekFrom::Start(beyond)).unwrap();
            let fault = ingested(&ingests, skipping(Format::I64), &inputs).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::EmptyInput, "at {beyond}");
        }
    }
}

#[tokio::test]
async fn nan_is_missing_at_its_position() {
    let far = BLOCK + 3;
    let mut values = vec![1.5; 2 * BLOCK];
    values[far] = f64::NAN;
    values[far + 7] = -f64::NAN;
    let bytes = floats(values);
    let inputs = || [file(&bytes), sealed(&bytes)];
    for input in inputs() {
        let fault = ask(one(Format::F64), input).await.unwrap_err();
        let place = (fault.source_index, fault.line, fault.column);
        assert_eq!((fault.kind, place), (FaultKind::MissingValue, (Some(0), None, Some(far as u64 + 1))));
    }
    for input in inputs() {
        let data = ask(skipping(Format::F64), input).await.unwrap();
        let sequence = data.sequence();
        assert_eq!((sequence.count(), sequence.missing()), (2 * BLOCK as u64 - 2, 2));
        assert_eq!(Number::Float(data.sequence().mean()), Number::Float(1.5));
        assert_eq!(data.modes().await.unwrap().frequency, sequence.count());
    }
    let data = ask(skipping(Format::F64), sealed(&floats([f64::NAN, -f64::NAN, 2.0, -f64::NAN, 1.0])))
        .await
        .unwrap();
    let median = data.median().await.unwrap();
    assert_eq!((median.low, median.high), (1.0.into(), 2.0.into()), "of two numbers");
    assert_eq!(data.modes().await.unwrap().frequency, 1);

    let few = floats(std::iter::once(1.0).chain(std::iter::repeat_n(f64::NAN, BLOCK)));
    let budget = Budget::new(Some(1 << 30));
    let ingests = Ingests::new(Engine::new(Simd::best(), budget.clone()), None);
    let kept = ingested(&ingests, skipping(Format::F64), &[shared(file(&few))]).await.unwrap();
    assert!((1..few.len() as u64 / 2).contains(&budget.used()), "what is missing takes no memory");
    drop(kept);
    let nothing = floats([f64::NAN; 3]);
    for input in [file(&nothing), sealed(&nothing)] {
        let fault = ask(skipping(Format::F64), input).await.unwrap_err();
        assert_eq!((fault.kind, fault.message.contains("all 3 values")), (FaultKind::EmptyInput, true));
        let sources =
            [Format::F64, Format::I64].map(|format| Source::Attached { attached: format as u32 - 1, format });
        let inputs = [sealed(&nothing), sealed(&ints([i64::MAX]))].map(shared);
        let data = ingested(&engine(), query(sources, Missing::Skip), &inputs).await.unwrap();
        assert_eq!(data.median().await.unwrap().low, i64::MAX.into(), "no float makes it float");
    }
}

#[tokio::test]
async fn many_missing_values_with_few_numbers_among_them_are_not_computed_on_the_connections_own_task() {
    let mut values = vec![f64::NAN; 2 * BLOCK];
    values[7] = 2.0;
    let data = ask(skipping(Format::F64), sealed(&floats(values))).await.unwrap();
    assert_eq!(data.sequence().count(), 1);
    assert!(data.median().now_or_never().is_none());
    assert!(data.modes().now_or_never().is_none());
    assert_eq!(Number::Float(data.sequence().mean()), Number::Float(2.0));
}

#[tokio::test]
async fn negative_zero_is_zero() {
    let bytes = floats([-0.0, 0.0, -0.0]);
    for input in [file(&bytes), sealed(&bytes)] {
        let data = ask(one(Format::F64), input).await.unwrap();
        let (median, modes) = (data.median().await.unwrap(), data.modes().await.unwrap());
        let zeros = [Number::Float(data.sequence().mean()), median.low, median.high, modes.values[0]];
        assert!(zeros.iter().all(|zero| zero.to_f64().to_bits() == 0), "{zeros:?}");
        assert_eq!((modes.values.len(), modes.frequency), (1, 3));
    }
}

#[tokio::test]
async fn a_size_that_is_no_multiple_of_eight_names_the_byte_where_the_last_value_begins() {
    let mut bytes = ints(0..1000);
    bytes.extend([1, 2, 3]);
    for input in [file(&bytes), sealed(&bytes)].into_iter().chain(streams(&bytes)) {
        let fault = ask(one(Format::I64), input).await.unwrap_err();
        let place = (fault.source_index, fault.line, fault.column);
        assert_eq!((fault.kind, place), (FaultKind::Malformed, (Some(0), None, Some(1001))));
        assert!(fault.message.contains("begins at byte 8001 has only 3"), "{fault}");
    }
}

#[tokio::test]
async fn values_may_arrive_in_pieces_of_any_size() {
    let values: Vec<_> = (0..50).map(|value| value * 0x0101_0101_0101_0101).collect();
    let bytes = ints(values.iter().copied());
    for piece in [1, 3, 7, 8, 9, 17] {
        let (reader, writer) = pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        let pieces: Vec<_> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        let ingests = engine();
        let inputs = [shared(reader.into())];
        let write = tokio::task::spawn_blocking(move || {
            for piece in pieces {
                (&writer).write_all(&piece).unwrap();
            }
        });
        let (data, written) = futures::join!(ingested(&ingests, one(Format::I64), &inputs), write);
        written.unwrap();
        let median = data.unwrap().median().await.unwrap();
        assert_eq!((median.low, median.high), (values[24].into(), values[25].into()));
    }
}

#[tokio::test]
async fn the_same_bytes_may_be_asked_for_in_another_format_if_they_can_be_read_again() {
    let bytes = floats([1.0, 2.0]);
    let [pipe, ..] = streams(&bytes);
    for (input, again) in [(file(&bytes), true), (sealed(&bytes), true), (pipe, false)] {
        let (ingests, inputs) = (engine(), [shared(input)]);
        let floats = ingested(&ingests, one(Format::F64), &inputs).await.unwrap();
        assert_eq!(Number::Float(floats.sequence().mean()), Number::Float(1.5));
        match ingested(&ingests, one(Format::I64), &inputs).await {
            Ok(ints) if again => assert!(!ints.sequence().is_float()),
            Err(fault) if !again => assert_eq!(fault.kind, FaultKind::InputConsumed),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_attachment_is_mapped_once_and_a_connection_maps_so_many_at_once() {
    let ingests = engine();
    let inputs: Vec<_> = (0..=MAPPINGS).map(|_| shared(memfd("many", &ints([1, 2, 3]), SEALS))).collect();
    let mut kept = Vec::new();
    for number in 0..=MAPPINGS as u32 {
        let source = || Source::Attached { attached: number, format: Format::I64 };
        let twice = ingested(&ingests, query([source(), source()], Missing::Error), &inputs).await.unwrap();
        let once = ingested(&ingests, query([source()], Missing::Error), &inputs).await.unwrap();
        assert_eq!(
            (twice.sequence().count(), Number::Float(once.sequence().mean())),
            (6, Number::Float(2.0))
        );
        ingests.release(number);
        kept.extend([twice, once]);
        assert_eq!(mapped("many"), (number as usize + 1).min(MAPPINGS));
    }
    drop(kept);
    unmapped("many").await;
    let again = ingested(&ingests, one(Format::I64), &inputs).await.unwrap();
    assert_eq!((mapped("many"), again.sequence().count()), (1, 3));
}

#[tokio::test]
async fn a_median_that_finds_no_memory_does_not_cost_the_mean() {
    let ingests = Ingests::new(Engine::new(Simd::best(), Budget::new(Some(512 << 10))), None);
    let values = floats((0..2_000_000_u64).map(|index| (index * 7919 % 1_000_003) as f64 + 0.5));
    let input = shared(sealed(&values));
    let data = async |wanted| ingests.data(one(Format::F64), wanted, |_| Some(Arc::clone(&input))).await;
    let found = data(Statistic::Median).await.unwrap();
    assert_eq!(found.median().await.unwrap_err().kind, FaultKind::TooLarge);
    assert!(data(Statistic::Mean).await.unwrap().sequence().mean() > 1.0);
}

#[tokio::test]
async fn integers_that_are_used_where_they_are_stay_there_whatever_follows() {
    // Enough to count them, and too little for a copy.
    let budget = Budget::new(Some(3 << 20));
    let ingests = Ingests::new(Engine::new(Simd::best(), budget.clone()), None);
    let values = ints((0..1_000_000_i64).map(|index| index.wrapping_mul(0x1234_5678_9abc_def1)));
    let input = shared(sealed(&values));
    let sources = vec![
        Source::Attached { attached: 0, format: Format::I64 },
        Source::Numbers([Number::Int(1)].into_iter().collect()),
    ];
    let query = query(sources, Missing::Error);
    let data = ingests.data(query, Statistic::Mean, |_| Some(Arc::clone(&input))).await.unwrap();
    assert_eq!(data.sequence().count(), 1_000_001);
    assert!(budget.used() < 100_000, "{}", budget.used());
}

#[tokio::test]
async fn a_header_is_not_taken_for_values() {
    let file = [b"\x93NUMPY\x01\x00".to_vec(), ints(0..100)].concat();
    for format in [Format::F64, Format::I64] {
        for input in [self::file(&file), sealed(&file)].into_iter().chain(streams(&file)) {
            let fault = ask(one(format), input).await.unwrap_err();
            assert_eq!((fault.kind, fault.column), (FaultKind::Malformed, Some(1)));
            assert!(fault.message.contains("format=npy"), "{fault}");
        }
    }
}

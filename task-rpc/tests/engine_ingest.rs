//! How inputs are read: once for all calls, no longer than somebody waits, and with exact places of what is wrong.

#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test: what is not there fails it, and answers are exact"
)]

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join3, select};
use futures::{FutureExt, poll};
use rustix::pipe::PipeFlags;
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::INLINE_NUMBERS;
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::wire::Attachment;
use task_worker::engine::{Budget, Data, Engine, Ingests, Simd, Statistic};

/// Much longer than anything here takes: it ends a test that would hang.
const HANG: Duration = Duration::from_mins(1);

fn ingests() -> Ingests {
    Ingests::new(Engine::new(Simd::best(), Budget::new(Some(1 << 30))), None)
}

fn attached(attached: u32) -> Source {
    Source::Attached { attached, format: Format::Text }
}

fn query(sources: impl Into<Vec<Source>>) -> Query {
    Query { sources: sources.into(), missing: Missing::Error }
}

fn skipping(sources: impl Into<Vec<Source>>) -> Query {
    Query { sources: sources.into(), missing: Missing::Skip }
}

/// The descriptors of a connection.
fn attachments(
    inputs: impl IntoIterator<Item = impl Into<OwnedFd>>,
) -> impl Fn(u32) -> Option<Arc<Attachment>> {
    let inputs: Vec<_> = inputs.into_iter().map(|input| Arc::new(input.into().into())).collect();
    move |number| inputs.get(number as usize).cloned()
}

fn file(text: impl AsRef<[u8]>) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_ref()).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    file.into()
}

/// A pipe that holds this text and has ended.
fn piped(text: &str) -> PipeReader {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader
}

async fn fault(ingests: &Ingests, query: Query, input: impl Into<OwnedFd>) -> Fault {
    within(ingests.data(query, Statistic::Mean, attachments([input]))).await.unwrap_err()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("it hangs")
}

fn mean(data: &Arc<Data>) -> f64 {
    data.sequence().mean()
}

/// Waits until all readers of the pipe are gone: only the reading thread has one by then.
async fn until_closed(mut writer: PipeWriter) {
    let closed = tokio::task::spawn_blocking(move || {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&writer, PollFlags::empty())], Some(&HANG.try_into().unwrap())).unwrap();
        writer.write_all(b"1").unwrap_err()
    });
    assert_eq!(closed.await.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn three_calls_at_once_read_a_pipe_once() {
    let ingests = ingests();
    let (reader, mut writer) = pipe().unwrap();
    let attachments = attachments([reader]);
    let call = || ingests.data(query([attached(0)]), Statistic::Mean, &attachments);
    let calls = join3(call(), call(), call());
    let write = async move { writer.write_all(b"1 2 6").unwrap() };
    let ((first, second, third), ()) = within(futures::future::join(calls, write)).await;
    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert!(Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &third));
    assert_eq!(mean(&first), 3.0);
    assert!(Arc::ptr_eq(&first, &within(call()).await.unwrap()), "a later call finds it too");
}

#[tokio::test]
async fn a_pipe_asked_for_again_in_another_way_is_consumed() {
    let ingests = ingests();
    let attachments = attachments([piped("1 NA"), piped("2")]);
    let first = within(ingests.data(skipping([attached(0)]), Statistic::Mean, &attachments)).await.unwrap();
    assert_eq!((first.sequence().count(), first.sequence().missing()), (1, 1));
    for (sources, index) in
        [(vec![attached(0)], 0), (vec![attached(1), attached(0)], 1), (vec![attached(0), attached(0)], 0)]
    {
        let fault = within(ingests.data(query(sources), Statistic::Mean, &attachments)).await.unwrap_err();
        assert_eq!((fault.kind, fault.source_index), (FaultKind::InputConsumed, Some(index)), "{fault}");
    }
    within(ingests.data(skipping([attached(0)]), Statistic::Mean, &attachments)).await.unwrap();
    ingests.release(0);
    let fault =
        within(ingests.data(skipping([attached(0)]), Statistic::Mean, &attachments)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::InputConsumed, "released");
}

#[tokio::test]
async fn a_pipe_with_a_fault_gives_later_calls_the_same_fault() {
    let ingests = ingests();
    let attachments = attachments([piped("1\n2 abc")]);
    for _ in 0..3 {
        let fault =
            within(ingests.data(query([attached(0)]), Statistic::Mean, &attachments)).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotANumber);
        assert_eq!((fault.source_index, fault.line, fault.column), (Some(0), Some(2), Some(3)));
    }
}

#[tokio::test]
async fn the_last_call_that_leaves_stops_the_reading() {
    let ingests = ingests();
    let (reader, mut writer) = pipe().unwrap();
    let number = std::cell::RefCell::new(Some(Arc::new(Attachment::from(OwnedFd::from(reader)))));
    let mut first =
        Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, |_| number.borrow().clone()));
    assert!(poll!(&mut first).is_pending());
    let mut second =
        Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, |_| number.borrow().clone()));
    assert!(poll!(&mut second).is_pending());
    number.take();
    drop(first);
    writer.write_all(b"1 2").unwrap();
    assert!(poll!(&mut second).is_pending());
    drop(second);
    until_closed(writer).await;
}

#[tokio::test]
async fn a_call_that_leaves_does_not_disturb_another() {
    let ingests = ingests();
    let (reader, mut writer) = pipe().unwrap();
    let attachments = attachments([reader]);
    let mut first = Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, &attachments));
    assert!(poll!(&mut first).is_pending());
    let mut second = Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, &attachments));
    assert!(poll!(&mut second).is_pending());
    drop(first);
    writer.write_all(b"1 2").unwrap();
    drop(writer);
    assert_eq!(within(second).await.unwrap().sequence().count(), 2);
}

#[tokio::test]
async fn a_pipe_whose_reading_was_cancelled_is_consumed_once_a_byte_was_taken() {
    let ingests = ingests();
    let (reader, mut writer) = pipe().unwrap();
    let attachments = attachments([reader]);
    // Cancelled before there was anything to read: nothing is lost.
    let call = ingests.data(query([attached(0)]), Statistic::Mean, &attachments);
    assert!(poll!(Box::pin(call)).is_pending());
    let mut call = Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, &attachments));
    assert!(poll!(&mut call).is_pending());
    // More than the pipe holds: when it is written, some of it has been taken.
    let written = tokio::task::spawn_blocking(move || {
        writer.write_all(&b"1 ".repeat(100_000)).unwrap();
        writer
    });
    let Ok(either) = within(select(call, written).map(Ok::<_, ()>)).await else { unreachable!() };
    let futures::future::Either::Right((writer, call)) = either else { panic!("it ended early") };
    drop(call);
    let fault = within(ingests.data(query([attached(0)]), Statistic::Mean, &attachments)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::InputConsumed, "{fault}");
    drop(writer);
}

#[tokio::test]
async fn a_file_is_read_from_its_offset_which_stays_where_it_is_and_can_be_read_again() {
    let ingests = ingests();
    let file = file("9 9 1 2\n");
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(4)).unwrap();
    let same = file.try_clone().unwrap();
    let attachments = attachments([file]);
    let data = within(ingests.data(query([attached(0)]), Statistic::Mean, &attachments)).await.unwrap();
    assert_eq!(mean(&data), 1.5);
    assert_eq!(rustix::fs::tell(&same).unwrap(), 4);
    let data = within(ingests.data(skipping([attached(0), attached(0)]), Statistic::Mean, &attachments))
        .await
        .unwrap();
    assert_eq!(data.sequence().count(), 4);
}

#[tokio::test]
async fn several_sources_are_one_sequence_and_a_fault_names_its_own() {
    let ingests = ingests();
    let numbers = Source::Numbers(vec![Number::Int(1), Number::Float(f64::NAN)].into());
    let input = || attachments([file("3 4\n"), file("5,\n6,,7")]);
    let sources = [attached(0), numbers.clone(), attached(1)];
    let data = within(ingests.data(skipping(sources.clone()), Statistic::Mean, input())).await.unwrap();
    assert_eq!((data.sequence().count(), data.sequence().missing()), (6, 2));
    let place = |fault: Fault| (fault.kind, fault.source_index, fault.line, fault.column);
    let fault = within(ingests.data(query(sources), Statistic::Mean, input())).await.unwrap_err();
    assert_eq!(place(fault), (FaultKind::MissingValue, Some(1), None, Some(2)));
    let fault =
        within(ingests.data(query([attached(0), attached(1)]), Statistic::Mean, input())).await.unwrap_err();
    assert_eq!(place(fault), (FaultKind::MissingValue, Some(1), Some(2), Some(3)));
    let fault = within(ingests.data(query([numbers]), Statistic::Mean, input())).await.unwrap_err();
    assert_eq!(place(fault), (FaultKind::MissingValue, Some(0), None, Some(2)));
    let fault =
        within(ingests.data(query([attached(0), attached(7)]), Statistic::Mean, input())).await.unwrap_err();
    assert_eq!(place(fault), (FaultKind::NoAttachment, Some(1), None, None));
}

#[tokio::test]
async fn bad_inputs_are_named_for_what_they_are() {
    let ingests = ingests();
    let all = || query([attached(0)]);
    let directory = fault(&ingests, all(), File::open("/").unwrap()).await;
    assert_eq!((directory.kind, directory.message.contains("is a directory")), (FaultKind::Unreadable, true));
    let (_reader, writer) = pipe().unwrap();
    let unreadable =
        fault(&self::ingests(), all(), File::options().write(true).open("/dev/null").unwrap()).await;
    assert_eq!(unreadable.kind, FaultKind::Unreadable, "{unreadable}");
    drop(writer);
    let empty = fault(&self::ingests(), all(), file("")).await;
    assert_eq!((empty.kind, empty.line), (FaultKind::EmptyInput, None));
    let skipped = fault(&self::ingests(), skipping([attached(0)]), file("NA,,nan")).await;
    assert_eq!(skipped.kind, FaultKind::EmptyInput);
    assert!(skipped.message.contains("all 3 values are missing"), "{skipped}");
    let zeros = fault(&self::ingests(), all(), File::open("/dev/zero").unwrap()).await;
    assert_eq!((zeros.kind, zeros.line, zeros.column), (FaultKind::NotANumber, Some(1), Some(1)));
    assert!(zeros.message.contains(r"\x00"), "{zeros}");
    let random = fault(&self::ingests(), all(), File::open("/dev/urandom").unwrap()).await;
    assert_eq!(random.kind, FaultKind::NotANumber);
    let long = fault(&self::ingests(), all(), file(vec![b'7'; 5_000_000])).await;
    assert_eq!(long.kind, FaultKind::NotANumber);
    assert!(long.message.len() < 200, "{long}");
}

#[tokio::test]
async fn an_input_that_stays_silent_is_given_up_after_its_limit() {
    let ingests =
        Ingests::new(Engine::new(Simd::best(), Budget::unlimited()), Some(Duration::from_millis(20)));
    let (reader, writer) = pipe().unwrap();
    assert_eq!(fault(&ingests, query([attached(0)]), reader).await.kind, FaultKind::InputIdle);
    drop(writer);
}

#[tokio::test]
async fn a_fifo_opened_before_anybody_writes_is_waited_for() {
    use rustix::fs::{Mode, OFlags, mknodat, open};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let reader = open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let ingests = ingests();
    let attachments = attachments([reader]);
    let mut call = Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, &attachments));
    assert!(poll!(&mut call).is_pending());
    let write = tokio::task::spawn_blocking(move || std::fs::write(path, "4 5"));
    let (data, written) = within(futures::future::join(call, write)).await;
    written.unwrap().unwrap();
    assert_eq!(mean(&data.unwrap()), 4.5);
}

#[tokio::test]
async fn a_pipe_that_came_twice_is_read_once() {
    let (reader, mut writer) = pipe().unwrap();
    let twice = [OwnedFd::from(reader.try_clone().unwrap()), reader.into()];
    let (ingests, attachments) = (ingests(), attachments(twice));
    let call = |number| ingests.data(query([attached(number)]), Statistic::Mean, &attachments);
    let (mut first, mut second) = (Box::pin(call(0)), Box::pin(call(1)));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    writer.write_all(b"1 2 3").unwrap();
    writer.write_all(b" 4 5").unwrap();
    drop(writer);
    // Whoever is first has it to its end, and the other hears why it has nothing.
    let (read, refused) = match within(futures::future::join(first, second)).await {
        (Ok(read), Err(refused)) | (Err(refused), Ok(read)) => (read, refused),
        (first, second) => panic!("{:?}, {:?}", first.is_ok(), second.is_ok()),
    };
    assert_eq!(refused.kind, FaultKind::InputConsumed);
    assert!(refused.message.contains("the same pipe"), "{refused}");
    assert_eq!(read.sequence().count(), 5);
    let both = fault(&self::ingests(), query([attached(0), attached(0)]), piped("1 2")).await;
    assert_eq!((both.kind, both.source_index), (FaultKind::InputConsumed, Some(1)));
}

#[tokio::test]
async fn a_pipe_without_blocking_is_read_to_its_end_and_keeps_its_flag() {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
    let same = reader.try_clone().unwrap();
    let ingests = ingests();
    let attachments = attachments([reader]);
    let mut call = Box::pin(ingests.data(query([attached(0)]), Statistic::Mean, &attachments));
    assert!(poll!(&mut call).is_pending());
    // One byte at a time: every border is tried.
    for byte in b"12 345\n6" {
        rustix::io::write(&writer, &[*byte]).unwrap();
    }
    drop(writer);
    assert_eq!(mean(&within(call).await.unwrap()), 121.0);
    assert!(rustix::fs::fcntl_getfl(same).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
}

#[tokio::test]
async fn numbers_beyond_the_memory_limit_are_refused_and_the_memory_comes_back() {
    let budget = Budget::new(Some(1 << 20));
    let ingests = Ingests::new(Engine::new(Simd::best(), budget.clone()), None);
    let faulty = async |text: String| fault(&ingests, query([attached(0)]), file(text)).await;
    let fault = faulty("1\n".repeat(70_000)).await;
    assert_eq!(fault.kind, FaultKind::TooLarge);
    assert!(fault.message.contains("--memory"), "{fault}");
    assert!(budget.used() < 1000, "the request itself may be kept");
    // Where there was no more room, in the run of 16 KiB that was read then.
    let lines: String = (0..400_000).map(|line| (line * 1000).to_string() + "\n").collect();
    let fault = faulty(lines.clone()).await;
    assert_eq!((fault.kind, fault.source_index, fault.column), (FaultKind::TooLarge, Some(0), Some(1)));
    let line = fault.line.unwrap();
    assert!((60_000..130_000).contains(&line), "{line}");
    // What is wrong before that is what is said.
    let fault = faulty(lines.replacen("\n50000000\n", "\nx\n", 1)).await;
    assert_eq!((fault.kind, fault.line), (FaultKind::NotANumber, Some(50_001)));
}

#[tokio::test]
async fn a_requests_own_numbers_count_as_long_as_they_are_kept() {
    let numbers = |count| Source::Numbers((0..count).map(Number::Int).collect());
    let budget = Budget::new(Some(8 << 20));
    let ingests = Ingests::new(Engine::new(Simd::best(), budget.clone()), None);
    let attachments = attachments([file("1")]);
    let data = within(ingests.data(query([attached(0), numbers(100_000)]), Statistic::Mean, &attachments))
        .await
        .unwrap();
    assert_eq!(data.sequence().count(), 100_001);
    let kept = budget.used();
    assert!(kept > 100_000 * (16 + 8), "{kept}");
    let again = within(ingests.data(query([attached(0), numbers(100_000)]), Statistic::Mean, &attachments))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&data, &again));
    assert_eq!(budget.used(), kept, "a call that finds it keeps no copy of its own");
    drop((data, again));
    let fault =
        within(ingests.data(query([numbers(400_000)]), Statistic::Mean, &attachments)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::TooLarge);
    // These were taken in before there was no more room to count or keep them.
    let floats = Source::Numbers((0..400_000).map(|int| Number::Float(f64::from(int))).collect());
    let fault = within(ingests.data(query([floats]), Statistic::Mean, &attachments)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::TooLarge);
    assert!(fault.column.is_some_and(|position| position > 60_000), "{:?}", fault.column);
    drop(ingests);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn what_nobody_uses_makes_room_before_anybody_is_refused() {
    let engine = Engine::new(Simd::best(), Budget::new(Some(3 << 18)));
    let connections = [(); 2].map(|()| Ingests::new(engine.clone(), None));
    let attachments = attachments([file("1\n".repeat(5000))]);
    let call = |connection: usize| {
        within(connections[connection].data(query([attached(0)]), Statistic::Mean, &attachments))
    };
    drop(call(0).await.unwrap());
    let used = call(1).await.unwrap();
    let fault = call(0).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::TooLarge, "what is in use stays");
    drop(used);
    call(0).await.unwrap();
}

#[tokio::test]
async fn many_numbers_in_a_request_are_answered_from_a_thread_and_few_in_place() {
    let ingests = ingests();
    let of = |count| query([Source::Numbers((1..=count).map(Number::Int).collect())]);
    let call = |count| Box::pin(ingests.data(of(count), Statistic::Mean, |_| None));
    let (few, many) = (INLINE_NUMBERS as i64, 3 * INLINE_NUMBERS as i64);
    assert!(ingests.few(&of(few)).is_some_and(|few| few.is_ok()));
    assert!(ingests.few(&of(few + 1)).is_none());
    // The thread may be done before the first look, but not every time.
    let mut looks = 0;
    while poll!(&mut call(many)).is_ready() {
        looks += 1;
        assert!(looks < 100, "it is answered in place");
    }
    let data = within(call(many)).await.unwrap();
    assert_eq!(mean(&data), (many + 1) as f64 / 2.0);
    assert_eq!(data.median().await.unwrap().low, Number::Int(many / 2));
}

#[tokio::test]
async fn a_huge_integer_makes_all_floats_with_one_warning() {
    let text = "9007199254740993\n1 9223372036854775808 99999999999999999999";
    let data = within(ingests().data(query([attached(0)]), Statistic::Mean, attachments([file(text)])))
        .await
        .unwrap();
    let [warning] = data.sequence().warnings() else { panic!("{:?}", data.sequence().warnings()) };
    assert!(warning.contains("line 2, column 3"), "{warning}");
    let median = data.median().await.unwrap();
    assert_eq!(median.low, Number::Float(9_007_199_254_740_992.0));
}

#[tokio::test]
async fn a_huge_integer_in_a_request_warns_once_and_names_its_position() {
    let numbers = |json| Source::Numbers(serde_json::from_str(json).unwrap());
    let warnings = async |sources: Vec<Source>| {
        let data =
            within(ingests().data(query(sources), Statistic::Mean, attachments([file("1")]))).await.unwrap();
        assert!(data.median().await.unwrap().low.to_f64() >= 1.0);
        data.sequence().warnings().to_vec()
    };
    let huge = || numbers(r#"[5, 9223372036854775808, "99999999999999999999"]"#);
    let [warning] = &warnings(vec![huge()]).await[..] else { panic!("not one warning") };
    assert!(warning.contains("at position 2 is beyond 64 bits"), "{warning}");
    let [warning] = &warnings(vec![attached(0), numbers("[1]"), huge(), huge()]).await[..] else {
        panic!("not one warning")
    };
    assert!(warning.contains("at position 2 of input 3"), "{warning}");
    assert_eq!(warnings(vec![numbers("[9223372036854775807, 1e300]")]).await, [""; 0]);
    let (ingests, attachments) = (ingests(), attachments([file("1")]));
    for (json, warnings) in [("[9223372036854775808]", 1), ("[9223372036854775808.0]", 0)] {
        let query = query([attached(0), numbers(json)]);
        let data = within(ingests.data(query, Statistic::Mean, &attachments)).await.unwrap();
        assert_eq!(data.sequence().warnings().len(), warnings, "{json}");
    }
}

#[tokio::test]
async fn the_documented_answers() {
    let answer = async |text: &'static str| {
        let data = within(ingests().data(query([attached(0)]), Statistic::Mean, attachments([file(text)])))
            .await
            .unwrap();
        (data.sequence().mean(), data.median().await.unwrap(), data.modes().await.unwrap())
    };
    let mean = async |text| answer(text).await.0;
    assert_eq!(mean("1e308 1e308 -1e308").await, 3.333_333_333_333_333e307);
    assert_eq!(mean("1e16 1 -1e16").await, 1.0 / 3.0);
    assert_eq!(mean("1e308 1e-308 -1e308").await, "3.33333333333333e-309".parse::<f64>().unwrap());
    assert_eq!(mean("-9223372036854775808 9223372036854775807").await, -0.5);
    assert!(mean("inf -inf").await.is_nan());
    let median = async |text| answer(text).await.1.value.to_f64();
    assert_eq!(median("1e308 1e308").await, 1e308);
    assert_eq!(median("5e-324 5e-324").await, 5e-324);
    let (_, median, _) = answer("-9223372036854775808 9223372036854775807").await;
    assert_eq!(median.value, Number::Float(-0.5));
    assert_eq!((median.low, median.high), (Number::Int(i64::MIN), Number::Int(i64::MAX)));
    for (text, values, frequency) in [
        ("3 1 3 1 2", &[1, 3][..], 2),
        ("5 4 3", &[], 1),
        ("7 7", &[7], 2),
        ("7", &[7], 1),
        ("1 1 2 2", &[], 2),
    ] {
        let modes = answer(text).await.2;
        assert_eq!(modes.values, values.iter().copied().map(Number::Int).collect::<Vec<_>>(), "{text}");
        assert_eq!((modes.frequency, modes.total), (frequency, values.len() as u64), "{text}");
    }
}

#[tokio::test]
async fn the_nist_sets_have_their_certified_means() {
    for (name, count, certified) in [
        ("Lew", 200, -177.435),
        ("Lottery", 218, 518.958_715_596_330),
        ("Mavro", 50, 2.001_856),
        ("Michelso", 100, 299.852_4),
        ("PiDigits", 5000, 4.534_8),
        ("NumAcc1", 3, 10_000_002.0),
        ("NumAcc2", 1001, 1.2),
        ("NumAcc3", 1001, 1_000_000.2),
        ("NumAcc4", 1001, 10_000_000.2),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/nist/{name}.txt"));
        let input = attachments([File::open(path).unwrap()]);
        let data = within(ingests().data(query([attached(0)]), Statistic::Mean, input)).await.unwrap();
        assert_eq!(data.sequence().count(), count, "{name}");
        let error = (mean(&data) - certified).abs();
        assert!(error <= 1e-12_f64.min(certified.abs() * 1e-15), "{name} is off by {error:e}");
    }
}

#[tokio::test]
async fn a_request_that_is_hopeless_takes_nothing_from_others() {
    let engine = Engine::new(Simd::best(), Budget::new(Some(64 << 20)));
    let (keeper, greedy) = (Ingests::new(engine.clone(), None), Ingests::new(engine, None));
    let pipe = attachments([piped("1\n2\n3\n")]);
    let kept = async || within(keeper.data(query([attached(0)]), Statistic::Mean, &pipe)).await;
    assert_eq!(kept().await.unwrap().sequence().count(), 3);
    let sparse = tempfile::tempfile().unwrap();
    sparse.set_len(1 << 40).unwrap();
    let sparse = attachments([OwnedFd::from(sparse)]);
    let raw = Source::Attached { attached: 0, format: Format::F64 };
    let fault = within(greedy.data(query([raw]), Statistic::Mean, &sparse)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::TooLarge);
    assert_eq!(kept().await.unwrap().sequence().count(), 3, "nobody can read that pipe again");
}

#[tokio::test]
async fn as_many_threads_count_as_have_room_for_a_table() {
    // For the table of one thread, and what it keeps before it counts. One by one they would take 16 MB.
    for megabytes in [3, 4, 6, 8] {
        let ingests = Ingests::new(Engine::new(Simd::best(), Budget::new(Some(megabytes << 20))), None);
        let text = attachments([file("1234\n".repeat(2_000_000))]);
        let data = within(ingests.data(query([attached(0)]), Statistic::Mean, &text)).await;
        assert_eq!(data.unwrap().sequence().count(), 2_000_000, "{megabytes} MiB");
    }
}

//! Arrays as NumPy saves them: read from whatever holds them, or used where they are, with the same answers.

#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test: what is not there fails it, and answers are exact"
)]

use std::fs::File;
use std::io::{Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, seek};
use task_proto::fault::{Fault, FaultKind};
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::wire::Attachment;
use task_worker::engine::{Budget, Data, Engine, Ingests, Simd, Statistic};

/// Much longer than anything here takes: it ends a test that would hang.
const HANG: Duration = Duration::from_mins(1);
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A file with a header of this many bytes, where NumPy has 128.
fn npy(descr: &str, values: usize, elements: &[u8], length: usize) -> Vec<u8> {
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({values},), }}");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((length as u16 - 10).to_le_bytes());
    file.extend(format!("{dictionary:width$}\n", width = length - 11).bytes());
    file.extend(elements);
    file
}

fn memfd(bytes: &[u8], seals: SealFlags, offset: u64) -> OwnedFd {
    let memfd = memfd_create("npy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(memfd);
    file.write_all(&vec![0xff; offset as usize]).unwrap();
    file.write_all(bytes).unwrap();
    seek(&file, SeekFrom::Start(offset)).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

/// A pipe through which they come in pieces of this size.
fn piped(bytes: &[u8], piece: usize) -> OwnedFd {
    let (reader, mut writer) = pipe().unwrap();
    let bytes = bytes.to_vec();
    std::thread::spawn(move || {
        // Whoever stops reading early has found what it was to find.
        let _ = bytes.chunks(piece).try_for_each(|piece| writer.write_all(piece));
    });
    reader.into()
}

async fn ask(budget: u64, missing: Missing, input: OwnedFd) -> Result<Arc<Data>, Fault> {
    let attachment: Arc<Attachment> = Arc::new(input.into());
    let sources = vec![Source::Attached { attached: 0, format: Format::Npy }];
    let ingests = Ingests::new(Engine::new(Simd::best(), Budget::new(Some(budget))), None);
    let data = ingests.data(Query { sources, missing }, Statistic::Mean, |_| Some(Arc::clone(&attachment)));
    tokio::time::timeout(HANG, data).await.expect("it hangs")
}

/// All that can be seen of a sequence, to the bit.
async fn seen(data: Result<Arc<Data>, Fault>) -> Result<String, (FaultKind, Option<u64>)> {
    let data = data.map_err(|fault| (fault.kind, fault.column))?;
    let (mean, median, modes) =
        (data.sequence().mean(), data.median().await.unwrap(), data.modes().await.unwrap());
    let sequence = data.sequence();
    Ok(format!(
        "{mean:?} {:?} {:?} {:?} {} of {} {:?}",
        median.low,
        median.high,
        modes,
        sequence.missing(),
        sequence.count(),
        sequence.warnings()
    ))
}

fn any_float() -> impl Strategy<Value = f64> {
    let special = [0.0, f64::NAN, f64::INFINITY, f64::MAX, 5e-324, 1.0, 1e16, -1e16];
    prop_oneof![any::<f64>(), proptest::sample::select(special.to_vec()), (-3..3).prop_map(f64::from)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// The numbers of a request are held against exact arithmetic in `engine_oracle`.
    #[test]
    fn an_array_is_the_same_sequence_as_its_numbers_wherever_it_is_and_however_it_comes(
        floats in proptest::collection::vec(any_float(), 0..2500),
        ints in proptest::collection::vec(prop_oneof![any::<i64>(), -3..3_i64, Just(i64::MAX)], 0..2500),
        is_float: bool,
        big_endian: bool,
        length in prop_oneof![Just(128_usize), 80..200_usize],
        offset in 0..9_u64,
        piece in 1..5000_usize,
        missing in prop_oneof![Just(Missing::Skip), Just(Missing::Error)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let order = if big_endian { '>' } else { '<' };
            let (numbers, bytes): (Vec<Number>, Vec<u8>) = if is_float {
                let bytes = floats.iter().flat_map(|v| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() });
                (floats.iter().copied().map(Number::Float).collect(), bytes.collect())
            } else {
                let bytes = ints.iter().flat_map(|v| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() });
                (ints.iter().copied().map(Number::Int).collect(), bytes.collect())
            };
            let kind = if is_float { "f8" } else { "i8" };
            let file = npy(&format!("{order}{kind}"), numbers.len(), &bytes, length);
            let query = Query { sources: vec![Source::Numbers(numbers.into())], missing };
            let expected = Ingests::new(Engine::new(Simd::best(), Budget::new(Some(1 << 30))), None).data(query, Statistic::Mean, |_| None).await;
            let expected = seen(expected).await;
            for input in [memfd(&file, SealFlags::empty(), offset), memfd(&file, SEALS, offset), piped(&file, piece)] {
                prop_assert_eq!(&seen(ask(1 << 30, missing, input).await).await, &expected);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_sealed_array_is_used_where_it_is_and_costs_no_memory() {
    let values: Vec<u8> = (0..400_000).flat_map(|value| f64::from(value).to_le_bytes()).collect();
    let little = npy("<f8", 400_000, &values, 128);
    let mean = |data: Result<Arc<Data>, Fault>| async move { data.unwrap().sequence().mean() };
    assert_eq!(mean(ask(1 << 20, Missing::Error, memfd(&little, SEALS, 0)).await).await, 199_999.5);
    let read = ask(1 << 20, Missing::Error, memfd(&little, SealFlags::empty(), 0)).await.unwrap_err();
    assert_eq!(read.kind, FaultKind::TooLarge, "who may change it is not trusted with it");
    // Behind a header that is no multiple of eight bytes the elements lie across words.
    let odd = npy("<f8", 400_000, &values, 131);
    let read = ask(1 << 20, Missing::Error, memfd(&odd, SEALS, 0)).await.unwrap_err();
    assert_eq!(read.kind, FaultKind::TooLarge);
    assert_eq!(mean(ask(8 << 20, Missing::Error, memfd(&odd, SEALS, 0)).await).await, 199_999.5);
}

#[tokio::test]
async fn the_size_is_looked_at_before_an_element_is_read() {
    let far = npy("<f8", 1 << 40, &[0; 64], 128);
    for input in [memfd(&far, SealFlags::empty(), 0), memfd(&far, SEALS, 0), piped(&far, 50)] {
        let fault = ask(1 << 20, Missing::Error, input).await.unwrap_err();
        assert_eq!((fault.kind, fault.column), (FaultKind::Malformed, Some(9)), "{fault}");
    }
}

#[tokio::test]
async fn short_integers_of_a_file_need_no_memory_for_each() {
    // A thread takes 2 MiB to count them. One by one they would take 80 MB, which is not there.
    let half = 5_000_000;
    let alike = (0..half).map(|value| (value % 100) as i16);
    let apart = (0..half).map(|value| if value % 2 == 0 { i16::MIN } else { i16::MAX });
    let signed: Vec<u8> = alike.chain(apart).flat_map(i16::to_le_bytes).collect();
    let alike = (0..half).map(|value| (value % 100) as u16);
    let unsigned: Vec<u8> = alike.chain((0..half).map(|_| u16::MAX)).flat_map(u16::to_le_bytes).collect();
    for (descr, values, mean) in [("<i2", signed, 24.5), ("<u2", unsigned, 32792.25)] {
        let file = npy(descr, 2 * half, &values, 128);
        let data = ask(64 << 20, Missing::Error, memfd(&file, SealFlags::empty(), 0)).await.unwrap();
        assert_eq!((data.sequence().count(), data.sequence().mean()), (2 * half as u64, mean));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_stream_does_not_depend_on_how_it_comes() {
    let values = [1.0, f64::NAN, 3.0].map(f64::to_le_bytes).concat();
    let file = npy("<f8", 2, &values, 128);
    for piece in [file.len(), 144, 136, 8, 1] {
        let fault = ask(1 << 20, Missing::Error, piped(&file, piece)).await.unwrap_err();
        assert_eq!((fault.kind, fault.column), (FaultKind::MissingValue, Some(2)), "in pieces of {piece}");
        let fault = ask(1 << 20, Missing::Skip, piped(&file, piece)).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Malformed, "in pieces of {piece}");
    }
}

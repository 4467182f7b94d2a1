//! The fast ways against `rmp-serde`.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::number::Number;
use crate::stats::{Format, Mean, Missing, Query, Source, StatsRequest, StatsResponse};

/// Every form that serde knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Form {
    Unit,
    Bool(bool),
    Signed(i8, i16, i32, i64),
    Unsigned(u8, u16, u32, u64),
    Wide(i128, u128),
    Floats { single: f32, double: f64 },
    Char(char),
    Text(String),
    Nothing(()),
    Empty(Nobody),
    Named(Wrapped),
    Pair(Both),
    Maybe(Option<Box<Form>>),
    List(Vec<Form>),
    Bytes([u8; 16]),
    Map(BTreeMap<String, Form>),
    Outcome(Result<Box<Form>, String>),
    Fields { first: Box<Form>, r#second: Option<u64>, third: Vec<u16> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Nobody;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapped(i64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Both(String, u8);

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zé]{0,40}", Just("x".repeat(300)), Just("y".repeat(70_000))]
}

/// Integers of all lengths, with those beside each edge.
fn int() -> impl Strategy<Value = i64> {
    (any::<i64>(), 0..64_u32, -2..3_i64).prop_map(|(int, shift, beside)| (int >> shift).wrapping_add(beside))
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("is itself", |float| !float.is_nan())
}

fn form() -> impl Strategy<Value = Form> {
    let leaf = prop_oneof![
        Just(Form::Unit),
        any::<bool>().prop_map(Form::Bool),
        int().prop_map(|int| Form::Signed(int as i8, int as i16, int as i32, int)),
        int().prop_map(|int| Form::Unsigned(int as u8, int as u16, int as u32, int as u64)),
        any::<(i128, u128)>().prop_map(|(signed, unsigned)| Form::Wide(signed, unsigned)),
        finite().prop_map(|float| Form::Floats { single: float as f32, double: float }),
        any::<char>().prop_map(Form::Char),
        text().prop_map(Form::Text),
        Just(Form::Nothing(())),
        Just(Form::Empty(Nobody)),
        int().prop_map(|int| Form::Named(Wrapped(int))),
        (text(), any::<u8>()).prop_map(|(text, byte)| Form::Pair(Both(text, byte))),
        any::<[u8; 16]>().prop_map(Form::Bytes),
    ];
    leaf.prop_recursive(4, 40, 20, |form| {
        prop_oneof![
            // `Some(None)` is no different from `None`, in `rmp-serde` as here.
            form.clone().prop_map(|form| Form::Maybe(Some(Box::new(form)))),
            Just(Form::Maybe(None)),
            vec(form.clone(), 0..20).prop_map(Form::List),
            btree_map("[a-z]{0,40}", form.clone(), 0..20).prop_map(Form::Map),
            form.clone().prop_map(|form| Form::Outcome(Ok(Box::new(form)))),
            text().prop_map(|text| Form::Outcome(Err(text))),
            (form, any::<Option<u64>>(), vec(any::<u16>(), 0..20))
                .prop_map(|(first, second, third)| Form::Fields { first: Box::new(first), second, third }),
        ]
    })
}

fn request() -> impl Strategy<Value = ClientMessage<StatsRequest>> {
    let number = prop_oneof![int().prop_map(Number::Int), finite().prop_map(Number::Float)];
    let format = prop::sample::select(&Format::ALL[..]);
    let source = prop_oneof![
        vec(number, 0..40).prop_map(|numbers| Source::Numbers(numbers.into())),
        (any::<u32>(), format).prop_map(|(attached, format)| Source::Attached { attached, format }),
    ];
    let missing = prop_oneof![Just(Missing::Error), Just(Missing::Skip)];
    let query = (vec(source, 0..3), missing).prop_map(|(sources, missing)| Query { sources, missing });
    let message = prop_oneof![
        query.clone().prop_map(|query| StatsRequest::Mean { query }),
        query.prop_map(|query| StatsRequest::Mode { query }),
        Just(()).prop_map(|()| StatsRequest::Ping {}),
        any::<u32>().prop_map(|attached| StatsRequest::Release { attached }),
    ];
    let request =
        (message, any::<u64>(), any::<u32>(), any::<u128>()).prop_map(|(message, id, nanos, trace)| {
            let mut context = context::current();
            context.trace_context.trace_id = (trace >> (nanos % 129).min(127)).into();
            let mut context = Context::of(&context, Instant::now());
            context.deadline = Duration::from_nanos(u64::from(nanos) << 20);
            ClientMessage::Request(Request { context, id, message })
        });
    let cancel = any::<u64>().prop_map(|request_id| ClientMessage::Cancel {
        trace_context: tarpc::trace::Context::default(),
        request_id,
    });
    prop_oneof![4 => request, 1 => cancel]
}

fn reply() -> impl Strategy<Value = Response<StatsResponse>> {
    let mean = (finite(), int(), vec(text(), 0..3)).prop_map(|(value, count, warnings)| {
        let (value, count) = (value.into(), count.unsigned_abs());
        StatsResponse::Mean(Ok(Mean { value, count, missing: count / 2, warnings }))
    });
    let error = text().prop_map(|detail| WireError::from(&ServerError::new(ErrorKind::TimedOut, detail)));
    let message = prop_oneof![3 => mean.prop_map(Ok), 1 => error.prop_map(Err)];
    (any::<u64>(), message).prop_map(|(request_id, message)| Response { request_id, message })
}

/// Some values have no `Debug` form and no equality; what they are written as tells as much.
fn named(message: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(message).unwrap()
}

/// What is packed is what `rmp-serde` writes, and what is unpacked what it reads.
fn same<T: Serialize + DeserializeOwned>(message: &T) -> Result<(), TestCaseError> {
    let expected = named(message);
    let mut room = Vec::new();
    prop_assert_eq!(pack(message, usize::MAX, &mut room), Ok(()));
    prop_assert_eq!(&room, &expected);
    prop_assert_eq!(pack(message, expected.len(), &mut room), Ok(()));
    prop_assert_eq!(pack(message, expected.len() - 1, &mut room), Err(Failure::Over));
    for bytes in [&expected, &rmp_serde::to_vec(message).unwrap()] {
        agree::<T>(bytes)?;
    }
    Ok(())
}

/// Where the fast way reads anything, `rmp-serde` reads the same.
fn agree<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let Ok(read) = unpack::<T>(bytes) else { return Ok(false) };
    let expected = rmp_serde::from_slice::<T>(bytes);
    prop_assert!(expected.is_ok(), "{:?}", bytes);
    prop_assert_eq!(named(&read), named(&expected.unwrap()));
    Ok(true)
}

fn mutated(message: &impl Serialize, changes: &[(u16, u8)]) -> Vec<u8> {
    let mut bytes = named(message);
    for &(at, byte) in changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] = byte;
    }
    bytes
}

#[test]
fn a_message_cannot_be_so_deep_that_the_stack_ends() {
    for deep in [vec![0x91; 1 << 20], [0x81, 0xc0].repeat(1 << 20)] {
        assert!(unpack::<IgnoredAny>(&deep).is_err());
    }
    assert!(unpack::<IgnoredAny>(&[[0x91; 40].as_slice(), &[0xc0]].concat()).is_ok());
}

proptest! {
    #[test]
    fn every_form_is_packed_and_unpacked_as_rmp_serde_does(form in form()) {
        same(&form)?;
    }

    #[test]
    fn requests_and_replies_take_the_fast_way(request in request(), reply in reply()) {
        same(&request)?;
        same(&reply)?;
        // A reply of a kind that `rmp-serde` alone reads is as good; but not those of every day.
        prop_assert!(agree::<ClientMessage<StatsRequest>>(&named(&request))?);
        prop_assert!(agree::<Response<StatsResponse>>(&named(&reply))?);
    }

    #[test]
    fn what_is_wrong_is_never_read_as_something(
        form in form(), request in request(), reply in reply(), changes in vec(any::<(u16, u8)>(), 1..4)
    ) {
        agree::<Form>(&mutated(&form, &changes))?;
        agree::<ClientMessage<StatsRequest>>(&mutated(&request, &changes))?;
        let wrong = mutated(&request, &changes);
        if let Ok(ClientMessage::Request(read)) = unpack::<ClientMessage<IgnoredAny>>(&wrong) {
            match rmp_serde::from_slice(&wrong) {
                Ok(ClientMessage::Request(Request { id, message: IgnoredAny, .. })) => prop_assert_eq!(id, read.id),
                _ => prop_assert!(false, "{:?}", wrong),
            }
        }
        agree::<Response<StatsResponse>>(&mutated(&reply, &changes))?;
    }
}

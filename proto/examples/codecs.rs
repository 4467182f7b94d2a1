//! Which codec for the wire: bytes, and time to encode and decode, of a typical request and reply.
//!
//! `cargo run --release -p task-proto --example codecs` prints the table of ARCHITECTURE.md: medians of interleaved
//! rounds, so that a busy machine slows all codecs alike. postcard gets types of its own: it writes no type marks,
//! so it cannot carry a number that is an integer or a float, nor a request of which parts may be absent.

#[path = "../src/wire/pack.rs"]
mod pack;
#[path = "../src/wire/unpack.rs"]
mod unpack;

use std::hint::black_box;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tarpc::{Request, Response, ServerError, context};
use task_proto::number::Number;
use task_proto::stats::{Median, Query, StatsRequest, StatsResponse};

const ROUNDS: usize = 15;

type Encode<T> = fn(&T) -> Vec<u8>;
type Decode<T> = fn(&[u8]) -> T;

fn main() {
    println!("| message | codec | bytes | encode, ns | decode, ns |");
    println!("|---|---|--:|--:|--:|");
    for count in [8, 4096] {
        let query = Query::numbers((0..count).map(number).collect());
        let request = Request { context: context::current(), id: 1, message: StatsRequest::Median { query } };
        let plain = Request {
            context: request.context,
            id: 1,
            message: (0..count).map(plain_number).collect::<Vec<_>>(),
        };
        compare(&format!("request of {count} numbers"), 40_000 / count as usize, &request, &plain);
    }
    let value = Number::Float(3.5);
    let (low, high) = (Number::Int(3), Number::Int(4));
    let median = Median { value, low, high, count: 8, missing: 0, warnings: Vec::new() };
    let reply = Response { request_id: 1, message: Ok(StatsResponse::Median(Ok(median))) };
    let plain = PlainMedian {
        value: PlainNumber::Float(3.5),
        low: PlainNumber::Int(3),
        high: PlainNumber::Int(4),
        count: 8,
        missing: 0,
        warnings: Vec::new(),
    };
    let plain = Response { request_id: 1, message: Ok::<_, ServerError>(plain) };
    compare("reply", 5_000, &reply, &plain);
}

/// Integers and 17-digit floats by turns.
fn number(n: i32) -> Number {
    if n % 2 == 0 { Number::Int(i64::from(n) * 37) } else { Number::Float(f64::from(n) / 7.0) }
}

fn plain_number(n: i32) -> PlainNumber {
    match number(n) {
        Number::Int(int) => PlainNumber::Int(int),
        Number::Float(float) => PlainNumber::Float(float),
    }
}

#[derive(Serialize, Deserialize)]
enum PlainNumber {
    Int(i64),
    Float(f64),
}

#[derive(Serialize, Deserialize)]
struct PlainMedian {
    value: PlainNumber,
    low: PlainNumber,
    high: PlainNumber,
    count: u64,
    missing: u64,
    warnings: Vec<String>,
}

fn compare<T, P>(message: &str, times: usize, value: &T, plain: &P)
where
    T: Serialize + DeserializeOwned,
    P: Serialize + DeserializeOwned,
{
    let mut json = Codec::new("JSON", json_encode::<T> as Encode<T>, json_decode::<T>, value);
    let mut array =
        Codec::new("MessagePack, arrays", array_encode::<T> as Encode<T>, packed_decode::<T>, value);
    let mut map = Codec::new("MessagePack, maps", map_encode::<T> as Encode<T>, packed_decode::<T>, value);
    let mut own = Codec::new("MessagePack, maps, ours", own_encode::<T> as Encode<T>, own_decode::<T>, value);
    let mut postcard = Codec::new("postcard", postcard_encode::<P> as Encode<P>, postcard_decode::<P>, plain);
    for _ in 0..ROUNDS {
        json.round(value, times);
        array.round(value, times);
        map.round(value, times);
        own.round(value, times);
        postcard.round(plain, times);
    }
    for row in [json.row(), array.row(), map.row(), own.row(), postcard.row()] {
        println!("| {message} | {row} |");
    }
}

struct Codec<T> {
    name: &'static str,
    encode: Encode<T>,
    decode: Decode<T>,
    bytes: Vec<u8>,
    encoded: Vec<u128>,
    decoded: Vec<u128>,
}

impl<T> Codec<T> {
    fn new(name: &'static str, encode: Encode<T>, decode: Decode<T>, value: &T) -> Self {
        Codec { name, encode, decode, bytes: encode(value), encoded: Vec::new(), decoded: Vec::new() }
    }

    fn round(&mut self, value: &T, times: usize) {
        let per = |start: Instant| start.elapsed().as_nanos() / times as u128;
        let start = Instant::now();
        for _ in 0..times {
            black_box((self.encode)(black_box(value)));
        }
        self.encoded.push(per(start));
        let start = Instant::now();
        for _ in 0..times {
            black_box((self.decode)(black_box(&self.bytes)));
        }
        self.decoded.push(per(start));
    }

    fn row(mut self) -> String {
        self.encoded.sort_unstable();
        self.decoded.sort_unstable();
        let (encode, decode) = (self.encoded[ROUNDS / 2], self.decoded[ROUNDS / 2]);
        format!("{} | {} | {encode} | {decode}", self.name, self.bytes.len())
    }
}

const OWN: &str = "a value that this program made";

fn json_encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect(OWN)
}

fn json_decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).expect(OWN)
}

fn array_encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).expect(OWN)
}

fn map_encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect(OWN)
}

fn packed_decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    rmp_serde::from_slice(bytes).expect(OWN)
}

fn own_encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut room = Vec::new();
    pack::pack(value, usize::MAX, &mut room).expect(OWN);
    room
}

fn own_decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    unpack::unpack(bytes).expect(OWN)
}

fn postcard_encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect(OWN)
}

fn postcard_decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect(OWN)
}

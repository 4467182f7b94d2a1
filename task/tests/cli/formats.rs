//! Inputs that are no text: `--format f64|i64|npy` from files, pipes and standard input, and what is wrong with them.

use rand::RngExt;
use serde_json::json;

use crate::invocation::{Home, Running};
use crate::serve::{serves, stopped};
use crate::terminal::Terminal;

const SAMPLE: [i64; 8] = [1, 5, 3, 1, 13, 5, 2, 4];
const ANSWER: &str = "mean    4.25\nmedian  3.5\nmode    1, 5 (2 of 8 each)\n";

/// A file as NumPy writes it.
pub fn npy(descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    file.extend(format!("{dictionary:117}\n").bytes());
    assert_eq!(file.len(), 128);
    file.extend(elements);
    file
}

fn bytes<const N: usize>(values: impl IntoIterator<Item = i64>, each: fn(i64) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(each).collect()
}

/// The sample in each format, as many ways as it can be written.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let npy = |descr, elements: Vec<u8>| ("npy", npy(descr, "(8,)", &elements));
    vec![
        ("f64", bytes(SAMPLE, |int| (int as f64).to_le_bytes())),
        ("i64", bytes(SAMPLE, i64::to_le_bytes)),
        ("text", SAMPLE.map(|int| int.to_string()).join("\n").into_bytes()),
        npy("<f8", bytes(SAMPLE, |int| (int as f64).to_le_bytes())),
        npy(">f8", bytes(SAMPLE, |int| (int as f64).to_be_bytes())),
        npy("<f4", bytes(SAMPLE, |int| (int as f32).to_le_bytes())),
        npy(">f4", bytes(SAMPLE, |int| (int as f32).to_be_bytes())),
        npy("<i8", bytes(SAMPLE, i64::to_le_bytes)),
        npy(">i8", bytes(SAMPLE, i64::to_be_bytes)),
        npy("<u8", bytes(SAMPLE, i64::to_le_bytes)),
        npy(">u8", bytes(SAMPLE, i64::to_be_bytes)),
        npy("<i4", bytes(SAMPLE, |int| (int as i32).to_le_bytes())),
        npy(">u4", bytes(SAMPLE, |int| (int as u32).to_be_bytes())),
        npy(">i2", bytes(SAMPLE, |int| (int as i16).to_be_bytes())),
        npy("<u2", bytes(SAMPLE, |int| (int as u16).to_le_bytes())),
        npy("|i1", bytes(SAMPLE, |int| (int as i8).to_le_bytes())),
        npy("|u1", bytes(SAMPLE, |int| (int as u8).to_le_bytes())),
    ]
}

#[test]
fn each_format_is_read_from_a_file_from_standard_input_and_from_a_pipe() {
    let home = Home::new();
    for (format, content) in samples() {
        home.file("numbers", &content);
        home.task(["--format", format, "numbers"]).ends().answers(ANSWER);
        home.task(["--format", format]).stdin(content.clone()).ends().answers(ANSWER);
        let from_file = format!("exec {} --format {format} - <numbers", crate::invocation::TASK);
        home.run("sh", ["-c", &from_file]).ends().answers(ANSWER);
    }
}

#[test]
fn a_variable_names_the_format_and_words_that_are_numbers_stay_numbers() {
    let home = Home::new();
    home.file("a.i64", bytes([1, 5, 3, 1], i64::to_le_bytes));
    let of = |format: &'static str, words: &[&str]| {
        home.task(words).with(|task| task.env("TASK_FORMAT", format)).ends()
    };
    of("i64", &["a.i64", "13,5", "2 4"]).answers(ANSWER);
    of("f64", &["--format", "i64", "a.i64", "13", "5", "2", "4"]).answers(ANSWER);
    of("npy", &["--only", "mean", "1", "2"]).answers("1.5\n");
    let ended = of("csv", &["1"]);
    assert!(
        ended.status.code() == Some(2) && ended.stderr.contains("text, f64, i64, npy"),
        "the formats are listed: {ended}"
    );
}

#[test]
fn a_service_is_asked_about_files_of_each_format() {
    let home = Home::new();
    let service: Running = serves(&home, &[]);
    for (format, content) in samples() {
        home.file("numbers", &content);
        let call = |words: &[&str]| home.task([&["call", "median", "--format", format], words].concat());
        call(&["numbers"]).ends_beside_others().answers("3.5\n");
        call(&[]).stdin(content).ends_beside_others().answers("3.5\n");
    }
    home.file("cut.f64", [0; 11]);
    home.task(["call", "mean", "--format", "f64", "cut.f64"]).ends_beside_others().fails(
        1,
        "task: cut.f64: value 2: the input's length is no multiple of 8 bytes: the value that begins at byte 9 has only 3",
    );
    stopped(service);
}

#[test]
fn a_raw_input_that_is_at_fault_names_the_value() {
    let home = Home::new();
    home.file("cut.i64", [0; 20]);
    let cut = "the input's length is no multiple of 8 bytes: the value that begins at byte 17 has only 4";
    home.task(["--format", "i64", "cut.i64"]).ends().fails(1, &format!("task: cut.i64: value 3: {cut}"));
    home.task(["--format", "i64"]).stdin([0; 20]).ends().fails(1, &format!("task: stdin: value 3: {cut}"));
    assert_eq!(
        home.task(["--json", "--format", "i64", "1", "cut.i64"]).ends().json_error(),
        json!({"kind": "malformed", "message": cut, "input": "cut.i64", "value": 3})
    );
    let mut values = [1.0_f64; 20];
    values[16] = f64::NAN;
    home.file("gap.f64", values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    home.task(["--format", "f64", "gap.f64"])
        .ends()
        .fails(1, "task: gap.f64: value 17: a value is missing here; --missing skip leaves such values out");
    let skipped = home.task(["-q", "--format", "f64", "--missing", "skip", "--only", "mean", "gap.f64"]);
    skipped.ends().answers("1\n");
    for format in ["f64", "i64"] {
        home.task(["--format", format]).ends().fails(1, "task: there are no numbers in the input");
    }
}

#[test]
fn an_npy_file_that_is_at_fault_says_what_its_header_says() {
    let home = Home::new();
    let fails = |content: &[u8], message: &str| {
        home.file("a.npy", content);
        home.task(["--format", "npy", "a.npy"]).ends().fails(1, &format!("task: a.npy: {message}"));
        let piped = home.task(["--format", "npy"]).stdin(content).ends();
        let more = message.replace("and 32 bytes follow", "and more bytes follow");
        piped.fails(1, &format!("task: stdin: {more}"));
    };
    fails(b"", "the input is empty: it has no npy header");
    fails(b"1 2 3\n", "this is no npy file: it begins with \"1 2 3\\n\", not with \"\\x93NUMPY\"");
    fails(b"\x93NUMPY\x01\x00\x76", "the input ends after byte 9, within its npy header");
    fails(
        b"\x93NUMPY\x01\x00\x76\x00{'descr'",
        "the npy header says that it ends at byte 128, and the input ends after byte 18",
    );
    fails(
        &npy("<c16", "(3,)", &[0; 48]),
        "the npy header says dtype \"<c16\", which is not read: f8, f4, i8, i4, i2, i1, u8, u4, u2 and u1 are",
    );
    fails(
        &npy("<f8", "(3, 1)", &[0; 24]),
        "the npy header says shape (3, 1), and one dimension is read; array.ravel() has one",
    );
    fails(
        &npy("<f8", "(3,)", &[0; 20]),
        "value 3: the npy header says 3 values of 8 bytes, 24 bytes, and 20 bytes follow",
    );
    fails(
        &npy("<f8", "(1152921504606846976,)", &[0; 8]),
        "the npy header says shape (1152921504606846976,), which is more than a file can hold",
    );
    fails(
        &npy("<i4", "(1000000000000,)", &[0; 8]),
        "value 3: the npy header says 1000000000000 values of 4 bytes, 4000000000000 bytes, and 8 bytes follow",
    );
    fails(
        &npy("<f8", "(3,)", &[0; 32]),
        "the npy header says 3 values of 8 bytes, 24 bytes, and 32 bytes follow",
    );
    let gap = [1.0, f64::NAN].map(f64::to_le_bytes).concat();
    fails(
        &npy("<f8", "(2,)", &gap),
        "value 2: a value is missing here; --missing skip leaves such values out",
    );
    home.file("a.npy", npy("<f8", "(3,)", &[0; 20]));
    assert_eq!(
        home.task(["--json", "--format", "npy", "a.npy"]).ends().json_error(),
        json!({
            "kind": "malformed",
            "message": "the npy header says 3 values of 8 bytes, 24 bytes, and 20 bytes follow",
            "input": "a.npy",
            "value": 3,
        })
    );
    home.file("a.npy", npy("<f8", "(0,)", &[]));
    home.task(["--format", "npy", "a.npy"]).ends().fails(1, "task: there are no numbers in the input");
}

#[test]
fn an_npy_file_that_is_taken_for_text_says_how_it_is_read() {
    let home = Home::new();
    let said = "this is an npy file and no text; --format npy reads it";
    home.file("a.npy", npy("<f8", "(3,)", &[0; 24]));
    home.task(["a.npy"]).ends().fails(1, &format!("task: a.npy:1:1: {said}"));
    home.task(["1", "-"])
        .stdin(npy("<f8", "(3,)", &[0; 24]))
        .ends()
        .fails(1, &format!("task: stdin:1:1: {said}"));
    home.file("a.npy", "1 2 3");
    home.task(["--only", "mean", "a.npy"]).ends().answers("2\n");
}

#[test]
fn an_unsigned_integer_beyond_64_bits_makes_the_sequence_float_with_one_warning() {
    let home = Home::new();
    let values = [1, 2, 1_u64 << 63, 1 << 63, u64::MAX];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    home.file("a.npy", npy(">u8", "(5,)", &bytes));
    let ended = home.task(["--format", "npy", "--only", "mode", "7", "a.npy"]).ends();
    assert_eq!(ended.stdout, "9.223372036854776e18\n", "{ended}");
    assert_eq!(
        ended.stderr,
        "task: a.npy: value 3: this integer is beyond 64 bits: all values are taken as 64-bit floats\n"
    );
}

#[test]
fn an_integer_beyond_64_bits_is_named_where_it_was_typed_or_stands() {
    let home = Home::new();
    home.file("a.txt", "1\n2 99999999999999999999\n");
    for (words, place) in [
        (&["1", "2", "99999999999999999999", "-99999999999999999999"][..], "argument 3"),
        (&["a.txt", "7", "1,2,99999999999999999999"], "a.txt:2:3"),
        (&["7", "1,2,99999999999999999999", "a.txt"], "argument 2, column 5"),
        (&["7", "a.txt"], "a.txt:2:3"),
    ] {
        let ended = home.task(words).ends();
        let said = "this integer is beyond 64 bits: all values are taken as 64-bit floats";
        assert_eq!(ended.stderr, format!("task: {place}: {said}\n"), "{words:?}: {ended}");
    }
}

#[test]
fn a_file_over_many_blocks_is_the_same_sequence_in_every_format() {
    let home = Home::new();
    let mut random = rand::rng();
    let values: Vec<i16> = (0..400_000).map(|_| random.random()).collect();
    let ints: Vec<i64> = values.iter().copied().map(i64::from).collect();
    home.file("a.txt", ints.iter().map(i64::to_string).collect::<Vec<_>>().join("\n"));
    home.file("a.i64", bytes(ints.clone(), i64::to_le_bytes));
    let elements: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    let content = npy(">i2", "(400000,)", &elements);
    home.file("a.npy", &content);
    let expected = home.task(["--json", "a.txt"]).ends().json();
    assert_eq!(home.task(["--json", "--format", "i64", "a.i64"]).ends().json(), expected);
    assert_eq!(home.task(["--json", "--format", "npy", "a.npy"]).ends().json(), expected);
    assert_eq!(home.task(["--json", "--format", "npy"]).stdin(content).ends().json(), expected);
}

#[test]
fn a_terminal_is_refused_where_no_text_is_asked_for() {
    let home = Home::new();
    let (screen, status) = Terminal::start(&home, &["--format", "npy"]).ends();
    assert_eq!(status.code(), Some(2), "{screen}");
    assert_eq!(
        screen,
        "task: stdin is a terminal, where nobody types npy: give a file or a pipe; see task --help\n"
    );
}

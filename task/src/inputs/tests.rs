use super::*;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{Mode, SealFlags};
use rustix::pty::OpenptFlags;
use task_proto::stats::Source::{Attached, Numbers};

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

fn given(line: &[&str], stdin: impl AsFd) -> Inputs {
    match gather(&words(line), Format::Text, Missing::Error, stdin.as_fd()) {
        Ok(Input::Given(inputs)) => inputs,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn failure(line: &[&str], stdin: impl AsFd) -> (String, String) {
    let failure =
        gather(&words(line), Format::Text, Missing::Error, stdin.as_fd()).expect_err("must not be taken");
    (failure.kind(), failure.text())
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.into_os_string().into_string().unwrap()
}

fn text(attachment: &OwnedFd) -> String {
    let mut text = String::new();
    File::from(attachment.try_clone().unwrap()).read_to_string(&mut text).unwrap();
    text
}

fn ints(ints: &[i64]) -> Source {
    Numbers(ints.iter().copied().map(Number::Int).collect())
}

fn attached(attached: u32) -> Source {
    Attached { attached, format: Format::Text }
}

#[test]
fn arguments_files_and_standard_input_are_one_sequence_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let a = file(directory.path(), "a.txt", "3 4");
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"7 8").unwrap();
    drop(writer);
    let inputs = given(&["1,2", "-5", &a, "6", "-", "9"], reader);
    assert_eq!(inputs.query.sources, [ints(&[1, 2, -5]), attached(0), ints(&[6]), attached(1), ints(&[9])]);
    assert_eq!(inputs.names, ["arguments", &a, "arguments", "stdin", "arguments"]);
    assert_eq!(inputs.attachments.iter().map(text).collect::<Vec<_>>(), ["3 4", "7 8"]);
    assert!(inputs.reads_stdin && !inputs.sample);
}

#[test]
fn the_same_file_twice_is_read_twice() {
    let directory = tempfile::tempdir().unwrap();
    let a = file(directory.path(), "a.txt", "3 4");
    let inputs = given(&[&a, &a], null());
    assert_eq!(inputs.attachments.iter().map(text).collect::<Vec<_>>(), ["3 4", "3 4"]);
    assert!(!inputs.reads_stdin);
}

#[test]
fn a_number_is_never_taken_for_a_file_unless_it_has_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let five = file(directory.path(), "5", "1");
    assert_eq!(given(&[&five], null()).query.sources, [attached(0)]);
    assert_eq!(given(&["5"], null()).query.sources, [ints(&[5])]);
}

#[test]
fn without_an_input_a_pipe_or_file_is_read_and_the_null_device_gets_the_sample() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let inputs = given(&[], &reader);
    assert_eq!((inputs.query.sources, inputs.names), (vec![attached(0)], vec!["stdin".to_owned()]));
    let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "the shell shares this pipe");
    let cloexec = rustix::io::fcntl_getfd(&inputs.attachments[0]).unwrap();
    assert!(cloexec.contains(rustix::io::FdFlags::CLOEXEC));

    let inputs = given(&[], null());
    assert!(inputs.sample && !inputs.reads_stdin);
    assert_eq!(inputs.query.sources, [ints(&SAMPLE)]);
    let listed = SAMPLE.map(|number| number.to_string()).join(" ");
    assert!(SAMPLE_NOTE.ends_with(&listed));
    assert!(!given(&["-"], null()).sample, "named, the null device is as empty as it is");
}

#[test]
fn a_file_on_standard_input_goes_on_where_it_stands() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"1 2 3").unwrap();
    file.seek(std::io::SeekFrom::Start(2)).unwrap();
    assert_eq!(text(&given(&[], file).attachments[0]), "2 3");
}

#[test]
fn many_numbers_go_beside_the_request_in_memory_that_can_be_read_again() {
    let few = vec!["7"; INLINE_NUMBERS];
    assert!(
        matches!(&given(&few, null()).query.sources[..], [Numbers(numbers)] if numbers.len() == few.len())
    );

    let inputs = given(&[&few[..], &["8"]].concat(), null());
    assert_eq!(inputs.query.sources, [attached(0)]);
    let memory = &inputs.attachments[0];
    assert_eq!(text(memory), "7\n".repeat(INLINE_NUMBERS) + "8\n");
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    assert_eq!(rustix::fs::fcntl_get_seals(memory).unwrap(), all);
}

#[test]
fn numbers_between_many_files_do_not_add_up_to_a_request_over_the_frame() {
    let line = [&vec!["7"; INLINE_NUMBERS][..], &["/dev/null"], &["8", "9"]].concat();
    let sources = given(&line, null()).query.sources;
    assert!(matches!(sources[..], [Numbers(_), Attached { attached: 0, .. }, Attached { attached: 1, .. }]));
}

#[test]
fn an_integer_beyond_64_bits_goes_as_text_so_that_its_warning_is_the_workers() {
    let inputs = given(&["1", "9223372036854775808"], null());
    assert_eq!(inputs.query.sources, [attached(0)]);
    assert_eq!(text(&inputs.attachments[0]), "1\n9223372036854775808\n");
}

#[test]
fn numbers_that_go_as_text_read_back_as_themselves() {
    let tokens = [
        Token::Number(Number::Int(i64::MIN)),
        Token::Number(Number::Float(2.0)),
        Token::Number(Number::Float(0.1)),
        Token::Number(Number::Float(5e-324)),
        Token::Number(Number::Float(f64::MAX)),
        Token::Number(Number::Float(f64::NEG_INFINITY)),
        Token::HugeInt(2f64.powi(63)),
        Token::HugeInt(-1e300),
        Token::Missing,
    ];
    let text = tokens.into_iter().fold(String::new(), written);
    let back: Vec<Token> =
        super::tokens(text.as_bytes()).unwrap().into_iter().map(|(token, _)| token).collect();
    assert_eq!(back, tokens);
}

#[test]
fn a_file_whose_name_holds_numbers_and_commas_is_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "NA, 1 and more.txt", "1");
    assert_eq!(given(&[&path], null()).names, [path]);
}

#[test]
fn missing_values_are_errors_that_name_the_argument_or_are_left_to_be_counted() {
    assert_eq!(
        failure(&["1", "2,,3"], null()),
        (
            "missing_value".into(),
            "task: argument 2, column 3: a value is missing here; --missing skip leaves such values out"
                .into()
        )
    );
    let Input::Given(inputs) =
        gather(&words(&["1", "NA,2"]), Format::Text, Missing::Skip, null().as_fd()).unwrap()
    else {
        panic!("no prompt")
    };
    let [Numbers(numbers)] = &inputs.query.sources[..] else { panic!("{inputs:?}") };
    assert!(matches!(numbers[..], [Number::Int(1), Number::Float(nan), Number::Int(2)] if nan.is_nan()));
    assert_eq!(inputs.query.missing, Missing::Skip);
}

#[test]
fn inputs_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let kind = |line: &[&str]| failure(line, null()).0;
    assert_eq!(
        failure(&[path], null()),
        ("is_a_directory".into(), format!("task: {path}: is a directory; name the files in it"))
    );
    assert_eq!(kind(&[&format!("{path}/nothing")]), "not_found");
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(kind(&[socket.to_str().unwrap()]), "unreadable");
    assert_eq!(failure(&["-", "-"], null()).0, "usage");
    assert_eq!(failure(&[&"x".repeat(5000)], null()).0, "usage");
    let directory_as_stdin = File::open(path).unwrap();
    assert_eq!(failure(&[], directory_as_stdin).0, "is_a_directory");
    let writing = File::create(directory.path().join("out")).unwrap();
    assert_eq!(
        failure(&[], writing),
        ("unreadable".into(), "task: stdin: it is open for writing only".into())
    );
}

#[test]
fn a_fifo_that_nobody_writes_does_not_hold_up_its_opening_and_is_blocking_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let inputs = given(&[path.to_str().unwrap()], null());
    let flags = rustix::fs::fcntl_getfl(&inputs.attachments[0]).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK));
}

/// A terminal: the end that its user types into, and the end that programs see.
fn terminal() -> (File, OwnedFd) {
    let keyboard =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&keyboard).unwrap();
    rustix::pty::unlockpt(&keyboard).unwrap();
    let name = rustix::pty::ptsname(&keyboard, Vec::new()).unwrap();
    let screen =
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (File::from(keyboard), screen)
}

#[test]
fn a_terminal_gets_a_prompt_or_is_read_to_ctrl_d_when_it_is_named() {
    let (mut keyboard, screen) = terminal();
    assert!(matches!(gather(&[], Format::Text, Missing::Error, screen.as_fd()), Ok(Input::Prompt)));
    keyboard.write_all(b"2 3\n4\n\x04").unwrap();
    let inputs = given(&["1", "-"], &screen);
    assert_eq!(inputs.query.sources, [ints(&[1]), attached(0)]);
    assert_eq!(text(&inputs.attachments[0]), "2 3\n4\n");
    assert!(!inputs.reads_stdin, "it has been read: nothing keeps the run waiting");
}

#[test]
fn a_line_of_the_prompt_is_a_query_or_says_where_it_is_wrong() {
    let inputs = from_line(b"3 1, 3 -2", Missing::Error).unwrap();
    assert_eq!(inputs.query.sources, [ints(&[3, 1, 3, -2])]);
    let failure = |line: &[u8]| from_line(line, Missing::Error).unwrap_err().text();
    assert_eq!(failure(b"3 1 abc"), "task: column 5: \"abc\" is not a number");
    assert_eq!(failure(b"a.txt"), "task: \"a.txt\" is not a number");
    assert_eq!(
        failure(b"1 nan"),
        "task: column 3: a value is missing here; --missing skip leaves such values out"
    );
    assert_eq!(failure(b"nan"), "task: a value is missing here; --missing skip leaves such values out");
}

#[test]
fn files_and_standard_input_have_the_format_and_words_that_are_numbers_are_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let a = file(directory.path(), "a.npy", "");
    let (reader, _writer) = std::io::pipe().unwrap();
    let of = |line: &[&str], stdin: BorrowedFd<'_>| gather(&words(line), Format::Npy, Missing::Error, stdin);
    let Ok(Input::Given(inputs)) = of(&["1,2", &a, "-"], reader.as_fd()) else { panic!() };
    let npy = |attached| Attached { attached, format: Format::Npy };
    assert_eq!(inputs.query.sources, [ints(&[1, 2]), npy(0), npy(1)]);
    // As text beside the request, where there are many.
    let Ok(Input::Given(inputs)) = of(&vec!["7"; INLINE_NUMBERS + 1], reader.as_fd()) else { panic!() };
    assert_eq!(inputs.query.sources, [attached(0)]);
    let Ok(Input::Given(inputs)) = of(&[], null().as_fd()) else { panic!() };
    assert!(!inputs.sample && inputs.query.sources == [npy(0)], "the sample is for those who have no data");
}

#[test]
fn a_terminal_is_refused_where_no_text_is_asked_for() {
    let (_keyboard, screen) = terminal();
    for line in [&[][..], &["-"], &["1", "-"]] {
        let failure = gather(&words(line), Format::F64, Missing::Error, screen.as_fd()).unwrap_err();
        assert_eq!(
            (&failure.kind()[..], &failure.text()[..]),
            (
                "usage",
                "task: stdin is a terminal, where nobody types f64: give a file or a pipe; see task --help"
            )
        );
    }
}

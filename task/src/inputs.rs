//! What a run computes on: words, files and standard input, as one query in the order they were given.
//!
//! Files and pipes are opened here and read by the worker; the parent reads only what its user typed: arguments
//! and terminals (a worker, in a process group of its own, would be stopped by SIGTTIN). To be called before
//! signals are registered and anything is spawned: until then Ctrl-C at a terminal or at a slow file system ends
//! the process by itself, with nothing to clean.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use task_proto::limits::{INLINE_NUMBERS, SOURCES, TYPED};
use task_proto::number::{Number, Token, TokenError};
use task_proto::stats::{Format, Missing, Query, Source};

use crate::args;
use crate::exit::{Failure, InputKind, Place};
use crate::words::{BadToken, Field, fields};

/// Said once standard input has kept a run waiting for [`IDLE_STDIN_NOTE`](task_proto::limits::IDLE_STDIN_NOTE).
pub const READING_STDIN: &str = "reading standard input; Ctrl-C ends, task --help tells more";
/// Said before the answer to [`SAMPLE`].
pub const SAMPLE_NOTE: &str = "no input: using the sample 1 5 3 1 13 5 2 4";
/// The numbers of a run whose standard input is the null device.
pub const SAMPLE: [i64; 8] = [1, 5, 3, 1, 13, 5, 2, 4];

/// Descriptors that this process needs beside its inputs.
const OTHER_DESCRIPTORS: u64 = 64;

/// Where the numbers of a run come from.
#[derive(Debug)]
pub enum Input {
    /// A terminal, line by line.
    Prompt,
    /// All that is to be computed on.
    Given(Inputs),
}

/// One query with all that it refers to.
#[derive(Debug)]
pub struct Inputs {
    /// The query; `attached` numbers are positions in `attachments`.
    pub query: Query,
    /// Descriptors to send with it.
    pub attachments: Vec<OwnedFd>,
    /// A name for each of the query's sources, for messages.
    pub names: Vec<String>,
    /// Whether nobody gave an input and these are the [`SAMPLE`].
    pub sample: bool,
    /// Whether standard input is among them, and may keep the run waiting.
    pub reads_stdin: bool,
}

/// Turns INPUT words into a query; without any, standard input decides.
pub fn gather(words: &[OsString], missing: Missing) -> Result<Input, Failure> {
    let stdin = rustix::stdio::stdin();
    let mut gathering = Gathering::new(missing);
    if words.is_empty() {
        if rustix::termios::isatty(stdin) {
            return Ok(Input::Prompt);
        }
        if is_null_device(stdin) {
            return Ok(Input::Given(sample(missing)));
        }
        gathering.add_stdin(stdin)?;
    }
    make_room_for(words.len());
    for (index, word) in words.iter().enumerate() {
        gathering.add_word(index, word)?;
    }
    gathering.finish().map(Input::Given)
}

/// Turns a line of the prompt into a query.
pub fn from_line(line: &[u8], missing: Missing) -> Result<Inputs, Failure> {
    let mut gathering = Gathering::new(missing);
    let fields = fields(line).map_err(|bad| not_a_number(&bad, Place::default()))?;
    gathering.add_numbers(&fields, line, &Place::default())?;
    gathering.finish()
}

fn sample(missing: Missing) -> Inputs {
    let numbers = SAMPLE.into_iter().map(Number::Int).collect();
    Inputs {
        query: Query { sources: vec![Source::Numbers(numbers)], missing },
        attachments: Vec::new(),
        names: vec!["the sample".into()],
        sample: true,
        reads_stdin: false,
    }
}

/// The query as it grows.
struct Gathering {
    inputs: Inputs,
    run: Run,
    /// Numbers that are in the query itself so far.
    inline: usize,
}

/// Numbers of neighbouring arguments: one source.
#[derive(Default)]
struct Run {
    numbers: Vec<Number>,
    /// The same as text, a token a line.
    text: Vec<u8>,
    /// Whether one of them only the worker's own parser can take, because the answer carries a warning for it.
    only_as_text: bool,
}

impl Gathering {
    fn new(missing: Missing) -> Self {
        let query = Query { sources: Vec::new(), missing };
        let inputs =
            Inputs { query, attachments: Vec::new(), names: Vec::new(), sample: false, reads_stdin: false };
        Gathering { inputs, run: Run::default(), inline: 0 }
    }

    fn add_word(&mut self, index: usize, word: &OsStr) -> Result<(), Failure> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return self.add_stdin(rustix::stdio::stdin());
        }
        if bytes.contains(&b'/') {
            return self.add_file(word, open(word));
        }
        match fields(bytes) {
            Ok(fields) => {
                let place = Place::of(format!("argument {}", index + 1));
                self.add_numbers(&fields, bytes, &place)
            }
            Err(bad) => match open(word) {
                Err(Errno::NOENT) => Err(unknown(index, word, &bad)),
                opened => self.add_file(word, opened),
            },
        }
    }

    fn add_numbers(&mut self, fields: &[Field], text: &[u8], place: &Place) -> Result<(), Failure> {
        for field in fields {
            let token = &text[field.start..field.end];
            let number = match field.token {
                Token::Number(number) => number,
                Token::HugeInt(float) => {
                    self.run.only_as_text = true;
                    Number::Float(float)
                }
                Token::Missing if self.inputs.query.missing == Missing::Skip => Number::Float(f64::NAN),
                Token::Missing => {
                    let column = (fields.len() > 1).then_some(field.start as u64 + 1);
                    return Err(missing_value(token, Place { column, ..place.clone() }));
                }
            };
            self.run.numbers.push(number);
            self.run.text.extend_from_slice(if token.is_empty() { b"nan" } else { token });
            self.run.text.push(b'\n');
        }
        Ok(())
    }

    fn add_stdin(&mut self, stdin: BorrowedFd<'_>) -> Result<(), Failure> {
        const NAME: &str = "stdin";
        if self.inputs.reads_stdin {
            return Err(Failure::Usage("standard input can be read only once: give '-' once".into()));
        }
        let writing_only = rustix::fs::fcntl_getfl(stdin)
            .is_ok_and(|flags| flags.intersection(OFlags::RWMODE) == OFlags::WRONLY);
        if writing_only {
            return Err(unreadable(NAME, "it is open for writing only"));
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(|errno| cannot_open(NAME, errno))?;
        self.inputs.reads_stdin = true;
        self.attach(NAME.into(), copy)
    }

    fn add_file(&mut self, word: &OsStr, opened: Result<OwnedFd, Errno>) -> Result<(), Failure> {
        let name = word.to_string_lossy().into_owned();
        let file = opened.map_err(|errno| cannot_open(&name, errno))?;
        // Only the opening had to be non-blocking (a FIFO that nobody writes); it means nothing on regular files.
        if !is_of_type(file.as_fd(), FileType::RegularFile) {
            let flags = rustix::fs::fcntl_getfl(&file).map_err(|errno| cannot_open(&name, errno))?;
            rustix::fs::fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK))
                .map_err(|errno| cannot_open(&name, errno))?;
        }
        self.attach(name, file)
    }

    fn attach(&mut self, name: String, file: OwnedFd) -> Result<(), Failure> {
        if is_of_type(file.as_fd(), FileType::Directory) {
            return Err(Failure::Input {
                kind: InputKind::IsADirectory,
                message: "is a directory; name the files in it".into(),
                place: Place::of(name),
            });
        }
        let file = if rustix::termios::isatty(&file) { typed(&name, file.as_fd())? } else { file };
        self.end_run()?;
        self.push(Attachment::Yes(file), name)
    }

    /// Makes a source of the numbers so far: in the query itself while they are few, else as text beside it.
    fn end_run(&mut self) -> Result<(), Failure> {
        let Run { numbers, text, only_as_text } = std::mem::take(&mut self.run);
        if numbers.is_empty() {
            return Ok(());
        }
        if only_as_text || self.inline + numbers.len() > INLINE_NUMBERS {
            let memory = sealed(|memory| memory.write_all(&text)).map_err(|error| no_memory(&error))?;
            return self.push(Attachment::Yes(memory), "arguments".into());
        }
        self.inline += numbers.len();
        self.push(Attachment::No(numbers), "arguments".into())
    }

    fn push(&mut self, part: Attachment, name: String) -> Result<(), Failure> {
        let Inputs { query, attachments, names, .. } = &mut self.inputs;
        let descriptors = getrlimit(Resource::Nofile).current;
        if descriptors.is_some_and(|limit| attachments.len() as u64 + OTHER_DESCRIPTORS > limit) {
            return Err(too_many_files(&name));
        }
        if query.sources.len() == SOURCES {
            return Err(too_large(&name, format!("more than {SOURCES} inputs; join them: cat FILE… | task")));
        }
        query.sources.push(match part {
            Attachment::No(numbers) => Source::Numbers(numbers),
            Attachment::Yes(file) => {
                attachments.push(file);
                Source::Attached { attached: attachments.len() as u32 - 1, format: Format::Text }
            }
        });
        names.push(name);
        Ok(())
    }

    fn finish(mut self) -> Result<Inputs, Failure> {
        self.end_run()?;
        if self.inputs.query.sources.is_empty() {
            // Words of nothing but white space. The worker says what it says of every empty input.
            self.push(Attachment::No(Vec::new()), "arguments".into())?;
        }
        Ok(self.inputs)
    }
}

enum Attachment {
    No(Vec<Number>),
    Yes(OwnedFd),
}

/// Not CTTY: a terminal given as a file must not become this process's own.
fn open(path: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
}

fn is_of_type(file: BorrowedFd<'_>, wanted: FileType) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

/// The null device is character device 1:3 (Documentation/admin-guide/devices.txt).
fn is_null_device(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// Reads a terminal to Ctrl-D.
fn typed(name: &str, terminal: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let mut failure = None;
    let memory = sealed(|memory| {
        let mut buffer = [0; 4096];
        let mut total = 0;
        loop {
            let count = match retry_on_intr(|| rustix::io::read(terminal, &mut buffer)) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(errno) => {
                    failure = Some(cannot_open(name, errno));
                    return Ok(());
                }
            };
            total += count;
            if total > TYPED {
                failure = Some(too_large(name, format!("more than {TYPED} bytes typed; put them in a file")));
                return Ok(());
            }
            memory.write_all(&buffer[..count])?;
        }
    });
    match (failure, memory) {
        (Some(failure), _) => Err(failure),
        (None, memory) => memory.map_err(|error| no_memory(&error)),
    }
}

/// A memfd with what `fill` writes, sealed for good and rewound.
fn sealed(fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> std::io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("task-arguments", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    fill(&mut memory)?;
    memory.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory.into())
}

/// Raises the soft limit of open files to the hard one when this many inputs might need it. The worker inherits it.
fn make_room_for(files: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|limit| files as u64 + OTHER_DESCRIPTORS > limit) {
        // Refused, opening says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

fn cannot_open(name: &str, errno: Errno) -> Failure {
    match errno {
        Errno::NOENT => Failure::Input {
            kind: InputKind::NotFound,
            message: "no such file".into(),
            place: Place::of(name),
        },
        Errno::MFILE | Errno::NFILE => too_many_files(name),
        Errno::ACCESS => unreadable(name, "permission denied"),
        Errno::NXIO => unreadable(name, "a socket or a device that is not there cannot be read as a file"),
        _ => unreadable(name, &format!("cannot be read: {}", std::io::Error::from(errno))),
    }
}

fn unreadable(name: &str, message: &str) -> Failure {
    Failure::Input { kind: InputKind::Unreadable, message: message.into(), place: Place::of(name) }
}

fn too_many_files(name: &str) -> Failure {
    let limit = getrlimit(Resource::Nofile).current.map_or("the system's".into(), |limit| limit.to_string());
    too_large(
        name,
        format!("too many files for the limit of open files ({limit}); join them: cat FILE… | task"),
    )
}

fn too_large(name: &str, message: String) -> Failure {
    Failure::Input { kind: InputKind::TooLarge, message, place: Place::of(name) }
}

fn no_memory(error: &std::io::Error) -> Failure {
    Failure::Internal(format!("cannot put the arguments into memory: {error}"))
}

fn missing_value(token: &[u8], place: Place) -> Failure {
    let what = if token.is_empty() { "an empty field".into() } else { String::from_utf8_lossy(token) };
    let message = format!("{what} is a missing value; --missing skip leaves such out");
    Failure::Input { kind: InputKind::MissingValue, message, place }
}

fn not_a_number(bad: &BadToken, place: Place) -> Failure {
    let kind = match bad.error {
        TokenError::NotANumber => InputKind::NotANumber,
        TokenError::OutOfRange => InputKind::OutOfRange,
    };
    let column = bad.several.then_some(bad.column);
    Failure::Input {
        kind,
        message: format!("{} is {}", bad.token, bad.error),
        place: Place { column, ..place },
    }
}

/// A word that is neither a number nor a file: what did its writer mean?
fn unknown(index: usize, word: &OsStr, bad: &BadToken) -> Failure {
    let text = word.to_string_lossy();
    let begins_as_number =
        text.trim_start_matches(['+', '-', '.']).starts_with(|first: char| first.is_ascii_digit());
    let has_suffix = text.rsplit_once('.').is_some_and(|(_, end)| end.starts_with(char::is_alphabetic));
    if bad.error == TokenError::OutOfRange || bad.several || (begins_as_number && !has_suffix) {
        return not_a_number(bad, Place::of(format!("argument {}", index + 1)));
    }
    if text.contains('.') {
        return cannot_open(&text, Errno::NOENT);
    }
    let commands = args::commands();
    let nearest = commands
        .iter()
        .map(|command| (strsim::damerau_levenshtein(command, &text), command))
        .min()
        .filter(|(distance, command)| *distance <= command.len() / 3);
    Failure::Usage(match nearest {
        Some((0, command)) => {
            format!("{command:?} is a command only as the first word; ./{command} is a file")
        }
        Some((_, command)) => {
            format!("{text:?} is no number, file or command; the nearest command is {command:?}")
        }
        None => format!("{text:?} is no number, file or command"),
    })
}

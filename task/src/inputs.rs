//! What a run computes on: words, files and standard input, as one query in the order they were given.
//!
//! Files and pipes are opened here and read by the worker; the parent reads only what its user typed: arguments
//! and terminals (a worker, in a process group of its own, would be stopped by SIGTTIN). To be called before
//! signals are registered and anything is spawned: until then Ctrl-C at a terminal or at a slow file system ends
//! the process by itself, with nothing to clean.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use task_proto::limits::{INLINE_NUMBERS, SOURCES};
use task_proto::number::{Number, Token};
use task_proto::stats::{Format, Missing, Query, Source};

use crate::descriptors::{
    cannot_open, has_room_beside, is_null_device, is_of_type, make_room_for, open, sealed, too_large,
    too_many_files, typed, unreadable,
};
use crate::exit::{Failure, InputKind, Place};
use crate::words::{Field, fields, not_a_number, unknown};

/// Said once standard input has kept a run waiting for [`IDLE_STDIN_NOTE`](task_proto::limits::IDLE_STDIN_NOTE).
pub const READING_STDIN: &str = "reading standard input; Ctrl-C ends, task --help tells more";
/// Said before the answer to [`SAMPLE`].
pub const SAMPLE_NOTE: &str = "no input: using the sample 1 5 3 1 13 5 2 4";
/// The numbers of a run whose standard input is the null device.
pub const SAMPLE: [i64; 8] = [1, 5, 3, 1, 13, 5, 2, 4];

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
    /// Whether a pipe or file on standard input is among them, and may keep the run waiting.
    pub reads_stdin: bool,
}

/// Turns INPUT words into a query; without any, standard input decides.
pub fn gather(words: &[OsString], missing: Missing, stdin: BorrowedFd<'_>) -> Result<Input, Failure> {
    let mut gathering = Gathering::new(missing, "arguments");
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
        gathering.add_word(index, word, stdin)?;
    }
    gathering.finish().map(Input::Given)
}

/// Turns a line of the prompt into a query.
pub fn from_line(line: &[u8], missing: Missing) -> Result<Inputs, Failure> {
    let mut gathering = Gathering::new(missing, "line");
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
    /// What the sources of typed numbers are called.
    typed_as: &'static str,
    stdin_taken: bool,
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
    fn new(missing: Missing, typed_as: &'static str) -> Self {
        let query = Query { sources: Vec::new(), missing };
        let inputs =
            Inputs { query, attachments: Vec::new(), names: Vec::new(), sample: false, reads_stdin: false };
        Gathering { inputs, run: Run::default(), inline: 0, typed_as, stdin_taken: false }
    }

    fn add_word(&mut self, index: usize, word: &OsStr, stdin: BorrowedFd<'_>) -> Result<(), Failure> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return self.add_stdin(stdin);
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
                Err(Errno::NOENT | Errno::NAMETOOLONG) => Err(unknown(index, word, &bad)),
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
        if self.stdin_taken {
            return Err(Failure::Usage("standard input can be read only once: give '-' once".into()));
        }
        let writing_only = rustix::fs::fcntl_getfl(stdin)
            .is_ok_and(|flags| flags.intersection(OFlags::RWMODE) == OFlags::WRONLY);
        if writing_only {
            return Err(unreadable(NAME, "it is open for writing only"));
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(|errno| cannot_open(NAME, errno))?;
        self.stdin_taken = true;
        self.inputs.reads_stdin = !rustix::termios::isatty(stdin);
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
        self.push(Part::Attached(file), name)
    }

    /// Makes a source of the numbers so far: in the query itself while they are few, else as text beside it.
    fn end_run(&mut self) -> Result<(), Failure> {
        let Run { numbers, text, only_as_text } = std::mem::take(&mut self.run);
        if numbers.is_empty() {
            return Ok(());
        }
        if only_as_text || self.inline + numbers.len() > INLINE_NUMBERS {
            return self.push(Part::Attached(sealed(&text)?), self.typed_as.into());
        }
        self.inline += numbers.len();
        self.push(Part::Inline(numbers), self.typed_as.into())
    }

    fn push(&mut self, part: Part, name: String) -> Result<(), Failure> {
        let Inputs { query, attachments, names, .. } = &mut self.inputs;
        if !has_room_beside(attachments.len()) {
            return Err(too_many_files(&name));
        }
        if query.sources.len() == SOURCES {
            return Err(too_large(&name, format!("more than {SOURCES} inputs; join them: cat FILE… | task")));
        }
        query.sources.push(match part {
            Part::Inline(numbers) => Source::Numbers(numbers),
            Part::Attached(file) => {
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
            self.push(Part::Inline(Vec::new()), self.typed_as.into())?;
        }
        Ok(self.inputs)
    }
}

/// A source before it has its number.
enum Part {
    Inline(Vec<Number>),
    Attached(OwnedFd),
}

fn missing_value(token: &[u8], place: Place) -> Failure {
    let what = if token.is_empty() { "an empty field".into() } else { String::from_utf8_lossy(token) };
    let message = format!("{what} is a missing value; --missing skip leaves such out");
    Failure::Input { kind: InputKind::MissingValue, message, place }
}

#[cfg(test)]
mod tests;

//! What a run computes on: words, files and standard input, as one query in the order they were given.
//!
//! Files and pipes are opened here and read by the worker; the parent reads only what its user typed: arguments
//! and terminals (a worker, in a process group of its own, would be stopped by SIGTTIN). To be called before
//! signals are registered and anything is spawned: until then Ctrl-C at a terminal or at a slow file system ends
//! the process by itself, with nothing to clean.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use task_proto::fault::Fault;
use task_proto::limits::{INLINE_NUMBERS, PIPE, SOURCES};
use task_proto::number::{Number, Token};
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::text::Place;

use crate::descriptors::{
    cannot_open, has_room_beside, is_null_device, is_of_type, make_room_for, open, sealed, too_large,
    too_many_files, typed, unreadable,
};
use crate::exit::{self, Failure, InputKind};
use crate::words::{argument, missing_value, token_place, tokens, unknown};

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
    /// Where the first integer beyond 64 bits was typed, with the source that it is in.
    pub huge: Vec<(usize, exit::Place)>,
    /// Whether nobody gave an input and these are the [`SAMPLE`].
    pub sample: bool,
    /// Whether a pipe or file on standard input is among them, and may keep the run waiting.
    pub reads_stdin: bool,
}

impl Inputs {
    /// Bytes that are to be read, if all of them are in files.
    pub fn size(&self) -> Option<u64> {
        let left = |file: &OwnedFd| {
            let stat = rustix::fs::fstat(file).ok()?;
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let offset = regular.then(|| rustix::fs::tell(file).ok()).flatten()?;
            Some((stat.st_size as u64).saturating_sub(offset))
        };
        self.attachments.iter().map(left).sum()
    }
}

/// Turns INPUT words into a query; without any, standard input decides. Files and standard input are of this format,
/// words that are numbers are numbers. Where no text is asked for, a terminal is refused and the null device is as empty
/// as it is: whoever named a format has data, and is not to get another's answer.
pub fn gather(
    words: &[OsString],
    format: Format,
    missing: Missing,
    stdin: BorrowedFd<'_>,
) -> Result<Input, Failure> {
    let mut gathering = Gathering::new(format, missing, "arguments");
    if words.is_empty() {
        if rustix::termios::isatty(stdin) && format == Format::Text {
            return Ok(Input::Prompt);
        }
        if is_null_device(stdin) && format == Format::Text {
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
    let mut gathering = Gathering::new(Format::Text, missing, "line");
    let placed = |fault| Failure::Fault { fault, input: None, values: false };
    gathering.add_numbers(&tokens(line).map_err(placed)?, line, None).map_err(placed)?;
    gathering.finish()
}

fn sample(missing: Missing) -> Inputs {
    let numbers = SAMPLE.into_iter().map(Number::Int).collect();
    Inputs {
        query: Query { sources: vec![Source::Numbers(numbers)], missing },
        attachments: Vec::new(),
        names: vec!["the sample".into()],
        huge: Vec::new(),
        sample: true,
        reads_stdin: false,
    }
}

/// The query as it grows.
struct Gathering {
    inputs: Inputs,
    /// That of files and standard input.
    format: Format,
    /// Numbers of neighbouring arguments, not yet a source.
    run: Vec<Token>,
    /// Where the first of them was typed that is beyond 64 bits.
    huge: Option<exit::Place>,
    /// Numbers that are in the query itself so far.
    inline: usize,
    /// What the sources of typed numbers are called.
    typed_as: &'static str,
    stdin_taken: bool,
}

impl Gathering {
    fn new(format: Format, missing: Missing, typed_as: &'static str) -> Self {
        let query = Query { sources: Vec::new(), missing };
        let inputs = Inputs {
            query,
            attachments: Vec::new(),
            names: Vec::new(),
            huge: Vec::new(),
            sample: false,
            reads_stdin: false,
        };
        Gathering { inputs, format, run: Vec::new(), huge: None, inline: 0, typed_as, stdin_taken: false }
    }

    fn add_word(&mut self, index: usize, word: &OsStr, stdin: BorrowedFd<'_>) -> Result<(), Failure> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return self.add_stdin(stdin);
        }
        if bytes.contains(&b'/') {
            return self.add_file(word, open(word));
        }
        match tokens(bytes) {
            Ok(tokens) => self.add_numbers(&tokens, bytes, Some(index)).map_err(|fault| Failure::Fault {
                fault,
                input: Some(argument(index)),
                values: false,
            }),
            Err(fault) => match open(word) {
                // A link to nothing is what was meant.
                Err(Errno::NOENT | Errno::NAMETOOLONG) if rustix::fs::lstat(word).is_err() => {
                    Err(unknown(index, word, fault))
                }
                opened => self.add_file(word, opened),
            },
        }
    }

    /// Takes the tokens of the argument with this index (from 0), or of a line.
    fn add_numbers(
        &mut self,
        tokens: &[(Token, Place)],
        text: &[u8],
        index: Option<usize>,
    ) -> Result<(), Fault> {
        if self.inputs.query.missing == Missing::Error
            && let Some((_, place)) = tokens.iter().find(|(token, _)| *token == Token::Missing)
        {
            return Err(missing_value(text, *place));
        }
        if self.huge.is_none()
            && let Some((_, place)) = tokens.iter().find(|(token, _)| matches!(token, Token::HugeInt(_)))
        {
            self.huge = Some(token_place(text, index.map(argument), *place));
        }
        self.run.extend(tokens.iter().map(|(token, _)| token));
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
                place: exit::Place::of(name),
            });
        }
        // A pipe that holds more costs its writer and the worker fewer waits for each other. One that holds more already is left
        // as it is, as is that of somebody who has more pipes than they may enlarge: some sixty, of which the worker has one for each
        // that it reads; after that all of their new ones are small (`pipe-user-pages-soft`).
        if rustix::pipe::fcntl_getpipe_size(&file).is_ok_and(|size| size < PIPE) {
            let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE);
        }
        let file = match (rustix::termios::isatty(&file), self.format) {
            (false, _) => file,
            (true, Format::Text) => typed(&name, file.as_fd())?,
            (true, format) => {
                return Err(Failure::Usage(format!(
                    "{name} is a terminal, where nobody types {}: give a file or a pipe",
                    format.name()
                )));
            }
        };
        self.end_run()?;
        self.push(Part::Attached(file, self.format), name)
    }

    /// Makes a source of the numbers so far: in the query itself while they are few, else as text beside it.
    fn end_run(&mut self) -> Result<(), Failure> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        let numbers: Option<Vec<Number>> = run.iter().copied().map(inline).collect();
        let part = match numbers {
            Some(numbers) if self.inline + numbers.len() <= INLINE_NUMBERS => {
                self.inline += numbers.len();
                Part::Inline(numbers)
            }
            _ => {
                let text = run.into_iter().fold(String::new(), written);
                Part::Attached(sealed(text.as_bytes())?, Format::Text)
            }
        };
        let source = self.inputs.names.len();
        self.inputs.huge.extend(self.huge.take().map(|place| (source, place)));
        self.push(part, self.typed_as.into())
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
            Part::Inline(numbers) => Source::Numbers(numbers.into()),
            Part::Attached(file, format) => {
                attachments.push(file);
                Source::Attached { attached: attachments.len() as u32 - 1, format }
            }
        });
        names.push(name);
        Ok(())
    }

    fn finish(mut self) -> Result<Inputs, Failure> {
        self.end_run()?;
        if self.inputs.query.sources.is_empty() {
            // Words of nothing but white space and a comma. The worker says what it says of every empty input.
            self.push(Part::Inline(Vec::new()), self.typed_as.into())?;
        }
        Ok(self.inputs)
    }
}

/// A source before it has its number.
enum Part {
    Inline(Vec<Number>),
    Attached(OwnedFd, Format),
}

/// The token as a request carries it; an integer beyond 64 bits only the worker's own parser can take, because
/// the answer has a warning for it.
fn inline(token: Token) -> Option<Number> {
    match token {
        Token::Number(number) => Some(number),
        Token::Missing => Some(Number::Float(f64::NAN)),
        Token::HugeInt(_) => None,
    }
}

/// The token on a line of its own, as text that reads back as the same token.
fn written(mut text: String, token: Token) -> String {
    // Writing to a String cannot fail.
    let _ = match token {
        Token::Number(Number::Int(int)) => writeln!(text, "{int}"),
        Token::Number(Number::Float(float)) => writeln!(text, "{float:e}"),
        Token::HugeInt(float) => writeln!(text, "{float:.0}"),
        Token::Missing => writeln!(text, "nan"),
    };
    text
}

#[cfg(test)]
mod tests;

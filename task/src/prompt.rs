//! The prompt: lines from a terminal, read on a thread of their own so that signals are handled meanwhile.
//!
//! Nothing can interrupt a read of a terminal, so nobody waits for that thread: it holds nothing, and ends with
//! the process. Reading as the child would is no way out: it is in a process group of its own.

use std::io::{self, BufRead, Read as _, Write as _};

use task_proto::limits::PROMPT_LINE;
use tokio::sync::mpsc;

use crate::args::Only;
use crate::exit::{Failure, InputKind, Place};

const PROMPT: &str = "> ";

/// The lines that a terminal's user types.
#[derive(Debug)]
pub struct Prompt {
    lines: mpsc::Receiver<Result<Vec<u8>, Failure>>,
}

impl Prompt {
    /// Greets on standard error, with the one statistic that is wanted or all, and begins to read standard input.
    pub fn start(only: Option<Only>) -> io::Result<Self> {
        // One line ahead: whoever pastes more waits in the terminal's own buffer.
        let (sender, lines) = mpsc::channel(1);
        std::thread::Builder::new().name("prompt".into()).spawn(move || {
            let mut input = io::stdin().lock();
            while let Some(line) = read_line(&mut input) {
                let lost = matches!(line, Err(Failure::Internal(_)));
                if sender.blocking_send(line).is_err() || lost {
                    break;
                }
            }
        })?;
        let wanted = match only {
            None => "mean, median and mode",
            Some(Only::Mean) => "the mean",
            Some(Only::Median) => "the median",
            Some(Only::Mode) => "the mode",
        };
        say(&format!("Type numbers, Enter for {wanted}. Ctrl-D ends.\n"));
        Ok(Prompt { lines })
    }

    /// Prompts for a line that is not blank, without its end. `None` after Ctrl-D. A line over the limit is
    /// [`Failure::Input`], and the next call prompts again; after any other failure it returns `None`. May be dropped and called again.
    pub async fn next_line(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        loop {
            say(PROMPT);
            let mut asked = Asked { answered: false };
            let line = self.lines.recv().await;
            asked.answered = line.is_some();
            match line {
                Some(Ok(line)) if line.trim_ascii().is_empty() => {}
                line => return line,
            }
        }
    }
}

/// A prompt on the screen. Left without an answer, by Ctrl-D or a signal, it ends its line: what comes next gets one
/// of its own.
struct Asked {
    answered: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            say("\n");
        }
    }
}

fn say(words: &str) {
    // With standard error closed there is nobody to prompt.
    let _ = io::stderr().write_all(words.as_bytes());
}

/// The next line without its end, or `None` at the end of input.
fn read_line(input: &mut impl BufRead) -> Option<Result<Vec<u8>, Failure>> {
    let mut line = Vec::new();
    match input.by_ref().take(PROMPT_LINE as u64 + 1).read_until(b'\n', &mut line) {
        Ok(0) => None,
        Ok(_) if line.len() > PROMPT_LINE && !line.ends_with(b"\n") => {
            Some(skip_line(input).map_err(|error| lost(&error)).and(Err(too_long())))
        }
        Ok(_) => {
            line.truncate(line.trim_ascii_end().len());
            Some(Ok(line))
        }
        Err(error) => Some(Err(lost(&error))),
    }
}

/// Drops the rest of a line, a buffer at a time.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(buffer.len(), |at| at + 1);
        input.consume(count);
        if end.is_some() {
            return Ok(());
        }
    }
}

fn too_long() -> Failure {
    let message = format!("the line is longer than {PROMPT_LINE} bytes; put it in a file: task FILE");
    Failure::Input { kind: InputKind::TooLarge, message, place: Place::default() }
}

fn lost(error: &io::Error) -> Failure {
    Failure::Internal(format!("cannot read the terminal: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(typed: &[u8]) -> Vec<Result<Vec<u8>, String>> {
        let mut input = io::BufReader::with_capacity(7, typed);
        std::iter::from_fn(|| read_line(&mut input)).map(|line| line.map_err(|error| error.kind())).collect()
    }

    #[test]
    fn a_last_line_without_an_end_is_a_line() {
        assert_eq!(lines(b"1 2\r\n\n3"), [Ok(b"1 2".to_vec()), Ok(Vec::new()), Ok(b"3".to_vec())]);
    }

    #[test]
    fn a_line_over_the_limit_is_one_error_and_the_next_one_is_read() {
        let mut typed = vec![b'1'; PROMPT_LINE];
        typed.extend_from_slice(b"\n");
        typed.extend(vec![b'1'; 3 * PROMPT_LINE]);
        typed.extend_from_slice(b"\n2\n");
        // Lengths: a megabyte of digits explains no failure.
        let lengths: Vec<_> = lines(&typed).into_iter().map(|line| line.map(|line| line.len())).collect();
        assert_eq!(lengths, [Ok(PROMPT_LINE), Err("too_large".to_owned()), Ok(1)]);
    }
}

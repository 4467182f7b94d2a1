//! Words and lines that the user typed: their tokens with their places, and what to say of one that is no number.

use std::ffi::OsStr;

use rustix::io::Errno;
use task_proto::fault::{Fault, FaultKind};
use task_proto::number::Token;
use task_proto::text::{Place, Scanner};

use crate::args;
use crate::descriptors::cannot_open;
use crate::exit::{self, Failure};

/// All tokens of a word or a line.
///
/// # Errors
/// The first token that follows no rule of the grammar, with as much of its place as a reader needs.
pub fn tokens(text: &[u8]) -> Result<Vec<(Token, Place)>, Fault> {
    let mut tokens = Vec::new();
    let mut sink = |token, place| {
        tokens.push((token, place));
        Ok(())
    };
    let mut scanner = Scanner::default();
    scanner
        .push(text, &mut sink)
        .and_then(|()| scanner.finish(&mut sink))
        .map_err(|fault| placed(fault, text))?;
    Ok(tokens)
}

/// The fault of a value that is missing where none may be.
pub fn missing_value(text: &[u8], place: Place) -> Fault {
    let message = "a value is missing here; --missing skip leaves such values out";
    placed(Fault::new(FaultKind::MissingValue, message).at(place.line, place.column), text)
}

/// Where a token is, for the reader of an error.
pub fn token_place(text: &[u8], input: Option<String>, place: Place) -> exit::Place {
    let Fault { line, column, .. } =
        placed(Fault::new(FaultKind::Internal, "").at(place.line, place.column), text);
    exit::Place { input, line, column, value: None }
}

/// The fault without the line, where there is but one, and without the column, where there is but one token.
fn placed(fault: Fault, text: &[u8]) -> Fault {
    let text = text.trim_ascii();
    let several = text.iter().any(|byte| *byte == b',' || byte.is_ascii_whitespace());
    let line = fault.line.filter(|_| text.contains(&b'\n'));
    Fault { line, column: fault.column.filter(|_| several), ..fault }
}

/// A word that is neither a number nor a file: what did its writer mean?
pub fn unknown(index: usize, word: &OsStr, fault: Fault) -> Failure {
    let text = word.to_string_lossy();
    let begins_as_number =
        text.trim_start_matches(['+', '-', '.']).starts_with(|first: char| first.is_ascii_digit());
    let has_suffix = text.rsplit_once('.').is_some_and(|(_, end)| end.starts_with(char::is_alphabetic));
    let several = fault.column.is_some();
    if fault.kind == FaultKind::OutOfRange || several || (begins_as_number && !has_suffix) {
        return Failure::Fault { fault, input: Some(argument(index)), values: false };
    }
    if text.contains('.') {
        return cannot_open(&text, Errno::NOENT);
    }
    if ["mean", "median", "mode"].contains(&&*text) {
        return Failure::Usage(format!(
            "{text:?} is no number, file or command; for the {text} alone: --only {text}"
        ));
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

/// What an argument is called, its position counted from 0.
pub fn argument(index: usize) -> String {
    format!("argument {}", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(word: &str) -> (String, String) {
        let fault = tokens(word.as_bytes()).expect_err(word);
        let failure = unknown(1, OsStr::new(word), fault);
        (failure.kind(), failure.text())
    }

    #[test]
    fn a_place_says_as_much_as_its_reader_needs() {
        let place = |text: &[u8]| tokens(text).map_err(|fault| (fault.line, fault.column)).unwrap_err();
        assert_eq!(place(b"abc"), (None, None));
        assert_eq!(place(b" abc "), (None, None));
        assert_eq!(place(b"1 abc"), (None, Some(3)));
        assert_eq!(place(b"1\n2 abc"), (Some(2), Some(3)));
    }

    #[test]
    fn a_word_that_is_no_number_gets_the_answer_its_writer_needs() {
        for (word, kind, text) in [
            ("1,abc", "not_a_number", "task: argument 2, column 3: \"abc\" is not a number"),
            ("abc 1", "not_a_number", "task: argument 2, column 1: \"abc\" is not a number"),
            ("12x", "not_a_number", "task: argument 2: \"12x\" is not a number"),
            ("1.2.3", "not_a_number", "task: argument 2: \"1.2.3\" is not a number"),
            ("-5x", "not_a_number", "task: argument 2: \"-5x\" is not a number"),
            ("0x1F", "not_a_number", "task: argument 2: \"0x1F\" is not a number"),
            ("1e999", "out_of_range", "task: argument 2: \"1e999\" is beyond the range of a 64-bit float"),
            ("sales.txt", "not_found", "task: sales.txt: no such file"),
            ("2024.csv", "not_found", "task: 2024.csv: no such file"),
            (
                "lgos",
                "usage",
                "task: \"lgos\" is no number, file or command; the nearest command is \"logs\"; see task --help",
            ),
            (
                "completion",
                "usage",
                "task: \"completion\" is no number, file or command; the nearest command is \"completions\"; see task --help",
            ),
            (
                "logs",
                "usage",
                "task: \"logs\" is a command only as the first word; ./logs is a file; see task --help",
            ),
            (
                "mean",
                "usage",
                "task: \"mean\" is no number, file or command; for the mean alone: --only mean; see task --help",
            ),
            (
                "server",
                "usage",
                "task: \"server\" is no number, file or command; the nearest command is \"serve\"; see task --help",
            ),
            ("x", "usage", "task: \"x\" is no number, file or command; see task --help"),
        ] {
            assert_eq!(said(word), (kind.to_owned(), text.to_owned()), "{word}");
        }
    }
}

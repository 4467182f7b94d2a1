//! Words and lines that the user typed: their tokens with their places, and what to say of one that is no number.

use std::ffi::OsStr;

use rustix::io::Errno;
use task_proto::limits::TOKEN_SHOWN;
use task_proto::number::{Token, TokenError, parse_token};

use crate::args;
use crate::descriptors::cannot_open;
use crate::exit::{Failure, InputKind, Place};

/// One token and where it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// What it stands for.
    pub token: Token,
    /// Where it begins, in bytes from 0.
    pub start: usize,
    /// Where it ends; nothing lies between for an empty field.
    pub end: usize,
}

/// The first token that follows no rule of the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadToken {
    /// Which rule it breaks.
    pub error: TokenError,
    /// The token in quotes, cut and escaped.
    pub token: String,
    /// Where it begins, in bytes from 1.
    pub column: u64,
    /// Whether there are other tokens beside it.
    pub several: bool,
}

/// Splits at white space and commas; adjacent commas have an empty field between them.
pub fn fields(text: &[u8]) -> Result<Vec<Field>, BadToken> {
    let mut fields = Vec::new();
    let mut after_comma = false;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b',' => {
                if after_comma {
                    fields.push(Field { token: Token::Missing, start: at, end: at });
                }
                after_comma = true;
                at += 1;
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            _ => {
                let separates = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
                let end = text[at..].iter().position(separates).map_or(text.len(), |length| at + length);
                let token = parse_token(&text[at..end]).map_err(|error| BadToken {
                    error,
                    token: quoted(&text[at..end]),
                    column: at as u64 + 1,
                    several: !fields.is_empty() || end < text.trim_ascii_end().len(),
                })?;
                fields.push(Field { token, start: at, end });
                after_comma = false;
                at = end;
            }
        }
    }
    Ok(fields)
}

/// What is wrong with a token, there.
pub fn not_a_number(bad: &BadToken, place: Place) -> Failure {
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
pub fn unknown(index: usize, word: &OsStr, bad: &BadToken) -> Failure {
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

fn quoted(token: &[u8]) -> String {
    format!("\"{}\"", token[..token.len().min(TOKEN_SHOWN)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_proto::number::Number;

    fn said(word: &str) -> (String, String) {
        let bad = fields(word.as_bytes()).expect_err(word);
        let failure = unknown(1, OsStr::new(word), &bad);
        (failure.kind(), failure.text())
    }

    #[test]
    fn words_split_at_white_space_and_commas() {
        let starts = |text: &str| -> Vec<usize> {
            fields(text.as_bytes()).unwrap().into_iter().map(|field| field.start).collect()
        };
        assert_eq!(starts("1,2,3"), [0, 2, 4]);
        assert_eq!(starts(" 1 2\t3\r\n"), [1, 3, 5]);
        assert_eq!(starts("1 , 2"), [0, 4]);
        assert_eq!(starts("  "), [0; 0]);
        let empty = fields(b"1,,2").unwrap()[1];
        assert_eq!((empty.token, empty.start, empty.end), (Token::Missing, 2, 2));
        let huge = fields(b"9223372036854775808 -7").unwrap();
        assert_eq!(huge[0].token, Token::HugeInt(2f64.powi(63)));
        assert_eq!(huge[1].token, Token::Number(Number::Int(-7)));
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
            ("serve", "usage", "task: \"serve\" is no number, file or command; see task --help"),
            ("x", "usage", "task: \"x\" is no number, file or command; see task --help"),
        ] {
            assert_eq!(said(word), (kind.to_owned(), text.to_owned()), "{word}");
        }
    }

    #[test]
    fn a_token_is_shown_cut_and_escaped() {
        let mut word = b"\x1b[2J\xff".to_vec();
        word.resize(1000, b'y');
        let shown = fields(&word).unwrap_err().token;
        assert_eq!(shown, format!("\"\\x1b[2J\\xff{}\"", "y".repeat(TOKEN_SHOWN - 5)));
    }
}

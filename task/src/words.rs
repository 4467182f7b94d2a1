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

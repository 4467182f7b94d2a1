//! Tokens of a word or a line that the user typed, all at once, with their places.

use task_proto::limits::TOKEN_SHOWN;
use task_proto::number::{Token, TokenError, parse_token};

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

fn quoted(token: &[u8]) -> String {
    format!("\"{}\"", token[..token.len().min(TOKEN_SHOWN)].escape_ascii())
}

//! Text to tokens: numbers between white space or commas, in blocks of any size.
//!
//! White space is space, tab, newline, carriage return, vertical tab and form feed. Two commas with nothing but
//! white space between them hold an empty field, which is missing; a comma at either end holds none, so that
//! lists which end their lines with a comma are read as meant. A byte order mark at the start is skipped and takes
//! up no column. Lines end at a newline; columns count bytes. Both count from 1.
//!
//! [`parse_token`] alone says what a token means: the short way for plain integers here gives nothing else.

use std::fmt::Write;

use crate::fault::{Fault, FaultKind};
use crate::limits::{TOKEN, TOKEN_SHOWN};
use crate::number::{Number, Token, TokenError, parse_token};

const BOM: &[u8] = b"\xef\xbb\xbf";
/// Digits that fit an `i64` whatever they are.
const SAFE_DIGITS: usize = 18;

/// Where a token begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: u64,
    /// The column in bytes, from 1.
    pub column: u64,
}

/// Splits text that comes in blocks into tokens. It keeps no more of it than one unfinished token.
///
/// What the sink refuses ends the scan with the sink's fault; a scanner that has failed is of no more use.
#[derive(Debug)]
pub struct Scanner {
    /// The bytes so far of a token that began in an earlier block, and where.
    carried: Vec<u8>,
    carried_at: Place,
    /// Whether the last thing other than white space was a comma.
    comma: bool,
    /// How many bytes of the byte order mark have been seen; all of them when it can come no more.
    mark: usize,
    line: u64,
    /// Offset of the line's first byte.
    line_start: u64,
    /// Offset of the block's first byte.
    offset: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            carried: Vec::new(),
            carried_at: Place { line: 1, column: 1 },
            comma: false,
            mark: 0,
            line: 1,
            line_start: 0,
            offset: 0,
        }
    }
}

impl Scanner {
    /// Hands the tokens that end in this block to the sink, each with its place.
    ///
    /// # Errors
    /// `NotANumber` or `OutOfRange` with the place of the token, or whatever the sink answers.
    pub fn push(
        &mut self,
        block: &[u8],
        mut sink: impl FnMut(Token, Place) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let block = self.skip_mark(block);
        let mut at = 0;
        if !self.carried.is_empty() {
            at = token_length(block);
            self.carry(&block[..at])?;
            if at < block.len() {
                self.take_carried(&mut sink)?;
            }
        }
        while let Some(&byte) = block.get(at) {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.line_start = self.offset + at as u64 + 1;
                }
                b',' => {
                    if self.comma {
                        sink(Token::Missing, self.place(at))?;
                    }
                    self.comma = true;
                }
                _ if BETWEEN[usize::from(byte)] => {}
                _ => {
                    let place = self.place(at);
                    let rest = &block[at..];
                    self.comma = false;
                    if let Some((int, length)) = plain_integer(rest) {
                        sink(Token::Number(Number::Int(int)), place)?;
                        at += length;
                        continue;
                    }
                    let length = token_length(rest);
                    if length == rest.len() {
                        self.carried_at = place;
                        self.carry(rest)?;
                    } else {
                        sink(read(&rest[..length], place)?, place)?;
                    }
                    at += length;
                    continue;
                }
            }
            at += 1;
        }
        self.offset += block.len() as u64;
        Ok(())
    }

    /// Says that the text has ended, which also ends its last token.
    ///
    /// # Errors
    /// As [`push`](Scanner::push).
    pub fn finish(mut self, mut sink: impl FnMut(Token, Place) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.mark < BOM.len() {
            self.carried.extend(&BOM[..self.mark]);
        }
        if self.carried.is_empty() { Ok(()) } else { self.take_carried(&mut sink) }
    }

    fn place(&self, at: usize) -> Place {
        Place { line: self.line, column: self.offset + at as u64 - self.line_start + 1 }
    }

    /// What is left of the block after a byte order mark; bytes that only began like one belong to a token.
    fn skip_mark<'a>(&mut self, mut block: &'a [u8]) -> &'a [u8] {
        while self.mark < BOM.len()
            && let Some((&first, rest)) = block.split_first()
        {
            if first == BOM[self.mark] {
                self.mark += 1;
                block = rest;
            } else {
                self.carried.extend(&BOM[..self.mark]);
                self.offset = self.mark as u64;
                self.mark = BOM.len();
            }
        }
        block
    }

    fn carry(&mut self, part: &[u8]) -> Result<(), Fault> {
        let room = TOKEN - self.carried.len();
        self.carried.extend(&part[..part.len().min(room)]);
        if part.len() > room { Err(too_long(&self.carried, self.carried_at)) } else { Ok(()) }
    }

    fn take_carried(
        &mut self,
        sink: &mut impl FnMut(Token, Place) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let token = read(&self.carried, self.carried_at)?;
        self.carried.clear();
        self.comma = false;
        sink(token, self.carried_at)
    }
}

/// What [`parse_all`] found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// The numbers in order. A missing value is a NaN, which a request takes for one.
    pub numbers: Vec<Number>,
    /// The first integer beyond 64 bits, if any: it stands among the numbers as its nearest `f64`.
    pub first_huge: Option<Place>,
}

/// Reads a whole text at once: an argument, a line of a prompt.
///
/// # Errors
/// `NotANumber` or `OutOfRange` with the place of the first token that is no number.
pub fn parse_all(text: &[u8]) -> Result<Parsed, Fault> {
    let mut parsed = Parsed::default();
    let mut sink = |token, place| {
        parsed.numbers.push(match token {
            Token::Number(number) => number,
            Token::Missing => Number::Float(f64::NAN),
            Token::HugeInt(float) => {
                parsed.first_huge.get_or_insert(place);
                Number::Float(float)
            }
        });
        Ok(())
    };
    let mut scanner = Scanner::default();
    scanner.push(text, &mut sink)?;
    scanner.finish(&mut sink)?;
    Ok(parsed)
}

/// A token as an error message shows it: cut at [`TOKEN_SHOWN`] bytes, and escaped so that no byte of it can
/// steer a terminal.
pub fn shown(token: &[u8]) -> String {
    let mut text = String::new();
    for chunk in token[..token.len().min(TOKEN_SHOWN)].utf8_chunks() {
        for char in chunk.valid().chars() {
            // Infallible: a `String` takes whatever is written to it.
            let _ = match u8::try_from(char) {
                Ok(byte) if byte.is_ascii() => write!(text, "{}", byte.escape_ascii()),
                _ => write!(text, "{}", char.escape_debug()),
            };
        }
        let _ = write!(text, "{}", chunk.invalid().escape_ascii());
    }
    if token.len() > TOKEN_SHOWN {
        text.push('…');
    }
    text
}

fn read(token: &[u8], place: Place) -> Result<Token, Fault> {
    if token.len() > TOKEN {
        return Err(too_long(token, place));
    }
    parse_token(token).map_err(|error| {
        let kind = match error {
            TokenError::NotANumber => FaultKind::NotANumber,
            TokenError::OutOfRange => FaultKind::OutOfRange,
        };
        Fault::new(kind, format!("\"{}\" is {error}", shown(token))).at(place.line, place.column)
    })
}

fn too_long(token: &[u8], place: Place) -> Fault {
    let message = format!("\"{}\" is not a number: it is longer than {TOKEN} bytes", shown(token));
    Fault::new(FaultKind::NotANumber, message).at(place.line, place.column)
}

/// A token of an optional minus and at most [`SAFE_DIGITS`] digits that ends within the block, and its length.
#[inline]
fn plain_integer(block: &[u8]) -> Option<(i64, usize)> {
    let negative = block[0] == b'-';
    let start = usize::from(negative);
    let mut magnitude = 0;
    for (index, &byte) in block[start..].iter().take(SAFE_DIGITS + 1).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let ends = BETWEEN[usize::from(byte)] && index > 0;
            return ends.then_some((if negative { -magnitude } else { magnitude }, start + index));
        }
        if index == SAFE_DIGITS {
            return None;
        }
        magnitude = magnitude * 10 + i64::from(digit);
    }
    None
}

fn token_length(block: &[u8]) -> usize {
    block.iter().position(|&byte| BETWEEN[usize::from(byte)]).unwrap_or(block.len())
}

/// Which bytes stand between tokens.
static BETWEEN: [bool; 256] = {
    let mut table = [false; 256];
    let between = b" \t\n\r\x0b\x0c,";
    let mut index = 0;
    while index < between.len() {
        table[between[index] as usize] = true;
        index += 1;
    }
    table
};

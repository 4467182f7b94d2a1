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

/// The byte order mark.
pub const BOM: &[u8] = b"\xef\xbb\xbf";
/// How a file begins that NumPy has saved: people forget to say so.
pub const NPY: &[u8] = b"\x93NUMPY";
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
        let fault = foreign(token).filter(|_| (place.line, place.column) == (1, 1));
        let fault = fault.unwrap_or_else(|| Fault::new(kind, format!("\"{}\" is {error}", shown(token))));
        fault.at(place.line, place.column)
    })
}

/// What to say of an input that begins so, where that is no text but something known.
pub fn foreign(start: &[u8]) -> Option<Fault> {
    let known = [
        (NPY, "this is an npy file and no text; format=npy reads it"),
        (b"\x1f\x8b", "this is compressed by gzip and no text; zcat unpacks it"),
        (b"PK\x03\x04", "this is a zip archive or a spreadsheet and no text"),
        (b"\xff\xfe", "this is text in UTF-16 and not in UTF-8; iconv converts it"),
        (b"\xfe\xff", "this is text in UTF-16 and not in UTF-8; iconv converts it"),
    ];
    let (_, message) = known.into_iter().find(|(magic, _)| start.starts_with(magic))?;
    Some(Fault::new(FaultKind::NotANumber, message).at(1, 1))
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Scanned = (Vec<(Token, Place)>, Option<Fault>);

    /// The tokens of a text handed over in these parts, and the fault it ended with.
    fn scan<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Scanned {
        let mut tokens = Vec::new();
        let mut sink = |token, place| {
            tokens.push((token, place));
            Ok(())
        };
        let mut scanner = Scanner::default();
        let pushed = parts.into_iter().try_for_each(|part| scanner.push(part, &mut sink));
        let outcome = pushed.and_then(|()| scanner.finish(&mut sink));
        (tokens, outcome.err())
    }

    fn ints(text: &str) -> Vec<(i64, u64, u64)> {
        let (tokens, fault) = scan([text.as_bytes()]);
        assert_eq!(fault, None, "{text:?}");
        tokens
            .into_iter()
            .map(|(token, Place { line, column })| match token {
                Token::Number(Number::Int(int)) => (int, line, column),
                Token::Missing => (i64::MIN, line, column),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    const MISSING: i64 = i64::MIN;

    #[test]
    fn numbers_stand_between_white_space_or_commas() {
        assert_eq!(
            ints("1 2,3\t4\n5\r\n6\x0b7\x0c8"),
            [(1, 1, 1), (2, 1, 3), (3, 1, 5), (4, 1, 7), (5, 2, 1), (6, 3, 1), (7, 3, 3), (8, 3, 5)]
        );
        assert_eq!(ints(""), []);
        assert_eq!(ints(" \n, \n"), []);
    }

    #[test]
    fn nothing_between_two_commas_is_a_missing_value_at_the_second() {
        assert_eq!(ints("1,,2"), [(1, 1, 1), (MISSING, 1, 3), (2, 1, 4)]);
        assert_eq!(ints("1, \n ,2"), [(1, 1, 1), (MISSING, 2, 2), (2, 2, 3)]);
        assert_eq!(ints("1,2,\n3,4,\n"), [(1, 1, 1), (2, 1, 3), (3, 2, 1), (4, 2, 3)]);
        assert_eq!(ints(",,,"), [(MISSING, 1, 2), (MISSING, 1, 3)]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_has_no_column() {
        assert_eq!(ints("\u{feff}1 2"), [(1, 1, 1), (2, 1, 3)]);
        for text in [&b"\xef"[..], b"\xef\xbb", b"\xef\xbb 1", b"1\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf1"]
        {
            assert_eq!(scan([text]).1.map(|fault| fault.kind), Some(FaultKind::NotANumber), "{text:?}");
        }
        assert_eq!(scan([&b"\xef\xbb x"[..]]).1.unwrap().column, Some(1));
        assert_eq!(scan([&b"\xef\xbb\xbf"[..]]), (vec![], None));
    }

    #[test]
    fn what_is_no_number_is_named_with_line_and_column() {
        let fault = scan([&b"1 2\r\n3\n4 5 abc 6\n"[..]]).1.unwrap();
        assert_eq!(fault, Fault::new(FaultKind::NotANumber, "\"abc\" is not a number").at(3, 5));
        let fault = scan([&b"1e400"[..]]).1.unwrap();
        assert_eq!(fault.kind, FaultKind::OutOfRange);
        assert!(fault.message.contains("1e400"), "{fault}");
    }

    #[test]
    fn an_error_shows_a_token_cut_and_safe_for_a_terminal() {
        assert_eq!(shown(b"a\x00\x1b[31m\"\xff\n"), r#"a\x00\x1b[31m\"\xff\n"#);
        assert_eq!(shown("größe".as_bytes()), "größe");
        assert_eq!(shown("\u{202e}\u{9b}".as_bytes()), r"\u{202e}\u{9b}");
        assert_eq!(shown(&[b'x'; 64]), "x".repeat(64));
        assert_eq!(shown(&[b'x'; 65]), "x".repeat(64) + "…");
    }

    #[test]
    fn a_token_longer_than_any_number_ends_the_scan_without_being_kept() {
        let zeros = vec![b'0'; TOKEN];
        assert_eq!(scan([&zeros[..1], &zeros[1..]]).0.len(), 1, "as long as it may be");
        let block = vec![0_u8; 256 * 1024];
        let mut scanner = Scanner::default();
        let fault = scanner.push(&block, |_, _| Ok(())).unwrap_err();
        assert_eq!((fault.kind, fault.line, fault.column), (FaultKind::NotANumber, Some(1), Some(1)));
        assert!(scanner.carried.capacity() <= 2 * TOKEN);
        // In small blocks, and followed by an end, it is the same fault.
        assert_eq!(scan(block.chunks(1000)).1, Some(fault.clone()));
        let mut ended = vec![0_u8; TOKEN + 1];
        ended.push(b'\n');
        assert_eq!(scan([&ended[..]]).1, Some(fault));
    }

    #[test]
    fn a_sink_that_refuses_ends_the_scan() {
        let refusal = Fault::new(FaultKind::Cancelled, "no");
        let mut seen = 0;
        let outcome = Scanner::default().push(b"1 2 3", |_, _| {
            seen += 1;
            Err(refusal.clone())
        });
        assert_eq!((outcome, seen), (Err(refusal), 1));
    }

    #[test]
    fn a_command_line_keeps_missing_values_and_knows_its_first_huge_integer() {
        let parsed = parse_all(b"1,,9223372036854775808 -0 99999999999999999999").unwrap();
        assert_eq!(parsed.first_huge, Some(Place { line: 1, column: 4 }));
        assert_eq!(parsed.numbers.len(), 5);
        assert!(matches!(parsed.numbers[1], Number::Float(float) if float.is_nan()));
        assert_eq!(parsed.numbers[3], Number::Int(0));
        assert_eq!(parse_all(b"1 x").unwrap_err().column, Some(3));
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => "[-+]?[0-9]{1,21}",
            3 => "[-+]?[0-9]{0,3}[.]?[0-9]{0,3}([eE][-+]?[0-9]{1,2})?",
            6 => "[ \t\r\n\x0b\x0c,]{1,3}",
            1 => "nan|NA|null|-inf|Infinity",
            1 => "\u{feff}|x|-|[+]",
        ];
        vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn borders_of_blocks_change_nothing(text in texts(), borders in vec(any::<prop::sample::Index>(), 0..8)) {
            let mut borders: Vec<_> = borders.iter().map(|border| border.index(text.len() + 1)).collect();
            borders.sort_unstable();
            let starts = [0].into_iter().chain(borders.iter().copied());
            let ends = borders.iter().copied().chain([text.len()]);
            let parts = starts.zip(ends).map(|(start, end)| &text[start..end]);
            let whole = scan([&text[..]]);
            prop_assert_eq!(&scan(parts), &whole);
            prop_assert_eq!(&scan(text.chunks(1)), &whole);
        }

        #[test]
        fn every_token_is_what_the_grammar_says(text in texts()) {
            // Token by token, by the standard library's splitting.
            let (tokens, fault) = scan([&text[..]]);
            let text = text.strip_prefix(BOM).unwrap_or(&text);
            let words = text.split(|&byte| BETWEEN[usize::from(byte)]).filter(|word| !word.is_empty());
            let expected: Vec<_> = words.map(parse_token).take_while(Result::is_ok).map(Result::unwrap).collect();
            let from_commas = |place: &Place| {
                let line = text.split(|&byte| byte == b'\n').nth(place.line as usize - 1).unwrap();
                line[place.column as usize - 1] == b','
            };
            let found: Vec<_> =
                tokens.into_iter().filter(|(_, place)| !from_commas(place)).map(|(token, _)| token).collect();
            prop_assert_eq!(found, expected);
            if let Some(fault) = fault {
                let line = text.split(|&byte| byte == b'\n').nth(fault.line.unwrap() as usize - 1).unwrap();
                let rest = &line[fault.column.unwrap() as usize - 1..];
                prop_assert!(parse_token(&rest[..token_length(rest)]).is_err());
            }
        }

        #[test]
        fn any_bytes_at_all_give_tokens_or_a_fault(bytes in vec(any::<u8>(), 0..300), size in 1..50_usize) {
            prop_assert_eq!(scan(bytes.chunks(size)), scan([&bytes[..]]));
        }
    }
}

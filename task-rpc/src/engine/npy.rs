//! The npy format: what the header of an array says, and its elements as numbers.
//!
//! Pure functions of bytes, however these arrive. As NumPy has it (`numpy.lib.format`, NEP 1): the magic, a version, the
//! length of the header, and the header, a Python dictionary in ASCII of exactly `descr`, `fortran_order` and `shape`;
//! behind it the elements. Nothing is evaluated and nothing guessed: whatever else is there is an error that quotes it. Read
//! are arrays of one dimension; elsewhere row and column would be lost without a word.

use std::fmt;

use task_proto::fault::{Fault, FaultKind};
use task_proto::text::shown;

use super::raw::at;

/// How every npy file begins.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes of a header: what version 1.0 can say. That of an array of one dimension has some 118; NumPy itself reads no
/// more than 10,000 from strangers.
const HEADER: usize = 0xffff;
/// Bytes before the data that tell all there is to know.
pub const MOST: usize = MAGIC.len() + 2 + 4 + HEADER;

/// What is known of an array before its first element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where in the file the first element is.
    pub data_offset: usize,
    /// How many elements there are.
    pub values: u64,
    /// What each of them is.
    pub element: Element,
}

/// What the elements of an array are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Signed or not, of 1, 2, 4 or 8 bytes.
    Ints(Ints),
    /// Of 4 or 8 bytes.
    Floats(Floats),
}

/// Integers of some width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ints {
    scalar: Int,
    big_endian: bool,
}

/// Floats of some width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floats {
    double: bool,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Int {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Header {
    /// The header that these first bytes of a file hold. `None`: more are needed, of which [`MOST`] are enough.
    ///
    /// # Errors
    /// `Malformed`, with what is wrong and what the header says.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let Some((start, length)) = extent(bytes)? else { return Ok(None) };
        let Some(text) = bytes.get(start..start + length) else { return Ok(None) };
        let (descr, dimensions) = Literal { text, at: 0 }.dictionary()?;
        let element = Element::named(descr)?;
        let &[values] = &dimensions[..] else { return Err(shaped(&dimensions)) };
        let data_offset = start + length;
        let header = Header { data_offset, values, element };
        let end = values.checked_mul(element.width() as u64).and_then(|b| b.checked_add(data_offset as u64));
        // No file is larger.
        if end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(says(format_args!("shape ({values},), which is more than a file can hold")));
        }
        Ok(Some(header))
    }

    /// The fault of an input that ends after these bytes, for which [`parse`](Header::parse) needs more.
    pub fn cut_off(bytes: &[u8]) -> Fault {
        let ended = bytes.len();
        match extent(bytes) {
            _ if bytes.is_empty() => malformed("the input is empty: it has no npy header".to_owned()),
            Ok(None) if !MAGIC.starts_with(&bytes[..ended.min(MAGIC.len())]) => foreign(bytes),
            Ok(Some((start, length))) => says(format_args!(
                "that it ends at byte {}, and the input ends after byte {ended}",
                start + length
            )),
            _ => malformed(format!("the input ends after byte {ended}, within its npy header")),
        }
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        // It is less than `i64::MAX`, or there was no header.
        self.values * self.element.width() as u64
    }

    /// Whether the elements fill the bytes that follow the header.
    ///
    /// # Errors
    /// `Malformed`, with both sizes; where elements are lacking at the position of the first of them.
    pub fn fits(&self, following: u64) -> Result<(), Fault> {
        if following == self.bytes() {
            return Ok(());
        }
        let fault = says(format_args!("{self}, and {following} bytes follow"));
        let lacking = following < self.bytes();
        Err(if lacking { at(fault, following / self.element.width() as u64 + 1) } else { fault })
    }

    /// The fault of an input that goes on behind its last element, nobody knows how far.
    pub fn exceeded(&self) -> Fault {
        says(format_args!("{self}, and more bytes follow"))
    }
}

/// What it says of its size: `3 values of 8 bytes, 24 bytes`.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values of {} bytes, {} bytes", self.values, self.element.width(), self.bytes())
    }
}

impl Element {
    /// Little-endian floats of 8 bytes.
    pub const F64: Element = Element::Floats(Floats { double: true, big_endian: false });
    /// Little-endian integers of 8 bytes.
    pub const I64: Element = Element::Ints(Ints { scalar: Int::I64, big_endian: false });

    /// Bytes of one.
    pub fn width(self) -> usize {
        match self {
            Element::Floats(Floats { double: true, .. }) => 8,
            Element::Floats(Floats { double: false, .. }) => 4,
            Element::Ints(Ints { scalar, .. }) => match scalar {
                Int::I8 | Int::U8 => 1,
                Int::I16 | Int::U16 => 2,
                Int::I32 | Int::U32 => 4,
                Int::I64 | Int::U64 => 8,
            },
        }
    }

    /// Whether the bytes are `i64` or `f64` as they are.
    pub fn in_place(self) -> bool {
        match self {
            Element::Ints(ints) => ints.in_place(),
            Element::Floats(floats) => floats.in_place(),
        }
    }

    /// The least integer there may be, where there are at most 65,536 of them.
    pub(super) fn least(self) -> Option<i64> {
        match self {
            Element::Ints(Ints { scalar: Int::I8, .. }) => Some(i8::MIN.into()),
            Element::Ints(Ints { scalar: Int::I16, .. }) => Some(i16::MIN.into()),
            Element::Ints(Ints { scalar: Int::U8 | Int::U16, .. }) => Some(0),
            _ => None,
        }
    }

    /// What a `descr` such as `<f8` stands for. Without an order, and with `|` or `=`, it is this machine's, as for NumPy.
    fn named(descr: &[u8]) -> Result<Self, Fault> {
        let native = cfg!(target_endian = "big");
        let (big_endian, scalar) = match descr {
            [b'<', scalar @ ..] => (false, scalar),
            [b'>', scalar @ ..] => (true, scalar),
            [b'|' | b'=', scalar @ ..] | scalar => (native, scalar),
        };
        let int = |scalar| Ok(Element::Ints(Ints { scalar, big_endian }));
        match scalar {
            b"f8" => Ok(Element::Floats(Floats { double: true, big_endian })),
            b"f4" => Ok(Element::Floats(Floats { double: false, big_endian })),
            b"i8" => int(Int::I64),
            b"i4" => int(Int::I32),
            b"i2" => int(Int::I16),
            b"i1" => int(Int::I8),
            b"u8" => int(Int::U64),
            b"u4" => int(Int::U32),
            b"u2" => int(Int::U16),
            b"u1" => int(Int::U8),
            _ => Err(says(format_args!("dtype \"{}\", which is not read: {READ} are", shown(descr)))),
        }
    }
}

const READ: &str = "f8, f4, i8, i4, i2, i1, u8, u4, u2 and u1";

/// The elements as `to`, one conversion after another: loops that the compiler makes vectors of.
macro_rules! convert {
    ($scalar:ty, $big_endian:expr, $bytes:expr, $out:expr, $to:expr) => {
        if $big_endian {
            each($bytes, $out, |bytes| $to(<$scalar>::from_be_bytes(bytes)))
        } else {
            each($bytes, $out, |bytes| $to(<$scalar>::from_le_bytes(bytes)))
        }
    };
}

impl Ints {
    /// Whether the bytes are `i64` as they are.
    pub fn in_place(self) -> bool {
        self.scalar == Int::I64 && self.big_endian == cfg!(target_endian = "big")
    }

    /// The integers of these bytes, which are as many whole elements as there is room for. `Some`: the one of this index,
    /// from 0, is the first beyond `i64`. Then they are no integers for us: [`floats`](Ints::floats) has them all.
    pub fn ints(self, bytes: &[u8], out: &mut [i64]) -> Option<usize> {
        let big = self.big_endian;
        match self.scalar {
            Int::I8 => convert!(i8, big, bytes, out, i64::from),
            Int::I16 => convert!(i16, big, bytes, out, i64::from),
            Int::I32 => convert!(i32, big, bytes, out, i64::from),
            Int::I64 => convert!(i64, big, bytes, out, |int: i64| int),
            Int::U8 => convert!(u8, big, bytes, out, i64::from),
            Int::U16 => convert!(u16, big, bytes, out, i64::from),
            Int::U32 => convert!(u32, big, bytes, out, i64::from),
            Int::U64 => {
                convert!(u64, big, bytes, out, u64::cast_signed);
                // One look at all of them: a search that may stop early is no loop of vectors.
                if out.iter().fold(0, |all, int| all | int) < 0 {
                    return out.iter().position(|&int| int < 0);
                }
            }
        }
        None
    }

    /// The nearest `f64` of each of them.
    pub fn floats(self, bytes: &[u8], out: &mut [f64]) {
        let big = self.big_endian;
        match self.scalar {
            Int::I8 => convert!(i8, big, bytes, out, f64::from),
            Int::I16 => convert!(i16, big, bytes, out, f64::from),
            Int::I32 => convert!(i32, big, bytes, out, f64::from),
            Int::I64 => convert!(i64, big, bytes, out, |int| int as f64),
            Int::U8 => convert!(u8, big, bytes, out, f64::from),
            Int::U16 => convert!(u16, big, bytes, out, f64::from),
            Int::U32 => convert!(u32, big, bytes, out, f64::from),
            Int::U64 => convert!(u64, big, bytes, out, |int| int as f64),
        }
    }
}

impl Floats {
    /// Whether the bytes are `f64` as they are.
    pub fn in_place(self) -> bool {
        self.double && self.big_endian == cfg!(target_endian = "big")
    }

    /// The floats of these bytes, exactly: as many whole elements as there is room for.
    pub fn floats(self, bytes: &[u8], out: &mut [f64]) {
        if self.double {
            convert!(f64, self.big_endian, bytes, out, |float: f64| float);
        } else {
            convert!(f32, self.big_endian, bytes, out, f64::from);
        }
    }
}

#[inline]
fn each<const N: usize, T>(bytes: &[u8], out: &mut [T], convert: impl Fn([u8; N]) -> T) {
    let (elements, rest) = bytes.as_chunks();
    debug_assert!(rest.is_empty() && elements.len() == out.len(), "whole elements, and room for them");
    for (place, &element) in out.iter_mut().zip(elements) {
        *place = convert(element);
    }
}

/// Where the dictionary begins, and how many bytes it has. `None`: not said so far.
fn extent(bytes: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    // Not of fewer bytes: what is said must not depend on how they arrive.
    let Some(magic) = bytes.get(..MAGIC.len()) else { return Ok(None) };
    if magic != MAGIC {
        return Err(foreign(magic));
    }
    let Some((&[major, minor], length)) = bytes.get(MAGIC.len()..).and_then(|rest| rest.split_first_chunk())
    else {
        return Ok(None);
    };
    let start = MAGIC.len() + 2;
    let extent = match (major, minor) {
        (1, 0) => length.first_chunk().map(|&length| (start + 2, usize::from(u16::from_le_bytes(length)))),
        (2 | 3, 0) => length.first_chunk().map(|&length| (start + 4, u32::from_le_bytes(length) as usize)),
        _ => return Err(says(format_args!("version {major}.{minor}; 1.0, 2.0 and 3.0 are read"))),
    };
    match extent {
        Some((_, length)) if length > HEADER => {
            Err(says(format_args!("that it has {length} bytes; at most {HEADER} are read")))
        }
        extent => Ok(extent),
    }
}

/// The header's text as it is read: the Python literals that a header may have, and no others.
struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Literal<'a> {
    /// The `descr` and the dimensions of the `shape`. The order of axes means nothing where there is but one.
    fn dictionary(mut self) -> Result<(&'a [u8], Vec<u64>), Fault> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let name = self.string()?;
            self.expect(b':')?;
            let twice = match name {
                b"descr" => descr.replace(self.descr()?).is_some(),
                b"fortran_order" => order.replace(self.boolean()?).is_some(),
                b"shape" => shape.replace(self.shape()?).is_some(),
                _ => return Err(says(format_args!("\"{}\", of which npy knows nothing", shown(name)))),
            };
            if twice {
                return Err(says(format_args!("\"{}\" twice", shown(name))));
            }
            if !self.take(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        if self.at < self.text.len() {
            return Err(self.senseless());
        }
        let lacks = |name| malformed(format!("the npy header does not say \"{name}\""));
        order.ok_or_else(|| lacks("fortran_order"))?;
        Ok((descr.ok_or_else(|| lacks("descr"))?, shape.ok_or_else(|| lacks("shape"))?))
    }

    fn descr(&mut self) -> Result<&'a [u8], Fault> {
        self.skip_space();
        if let rest @ [b'[' | b'(' | b'{', ..] = &self.text[self.at..] {
            let descr = shown(rest.trim_ascii_end());
            return Err(says(format_args!("\"descr\": {descr}, no plain dtype; {READ} are read")));
        }
        self.string()
    }

    fn string(&mut self) -> Result<&'a [u8], Fault> {
        let quote = if self.take(b'"') { b'"' } else { self.expect(b'\'').map(|()| b'\'')? };
        let rest = &self.text[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == quote) else { return Err(self.senseless()) };
        let string = &rest[..length];
        // It would stand for another character, and no name or dtype has one.
        if string.contains(&b'\\') {
            return Err(self.senseless());
        }
        self.at += length + 1;
        Ok(string)
    }

    fn boolean(&mut self) -> Result<bool, Fault> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.senseless())
    }

    /// A tuple: with one dimension it has a comma, or it were a number in parentheses.
    fn shape(&mut self) -> Result<Vec<u64>, Fault> {
        let mut dimensions = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            dimensions.push(self.dimension()?);
            if !self.take(b',') {
                if dimensions.len() == 1 {
                    return Err(self.senseless());
                }
                self.expect(b')')?;
                break;
            }
        }
        Ok(dimensions)
    }

    fn dimension(&mut self) -> Result<u64, Fault> {
        self.skip_space();
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        let value = match digits.parse() {
            Ok(value) => value,
            Err(_) if digits.is_empty() => return Err(self.senseless()),
            Err(_) => {
                let digits = shown(digits.as_bytes());
                return Err(says(format_args!(
                    "a dimension of {digits}, which is more than a file can hold"
                )));
            }
        };
        self.at += length;
        // As Python 2 wrote integers that were long.
        if self.text.get(self.at) == Some(&b'L') {
            self.at += 1;
        }
        Ok(value)
    }

    fn take(&mut self, wanted: u8) -> bool {
        self.skip_space();
        let there = self.text.get(self.at) == Some(&wanted);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Fault> {
        if self.take(wanted) { Ok(()) } else { Err(self.senseless()) }
    }

    fn skip_space(&mut self) {
        self.at += self.text[self.at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }

    fn senseless(&self) -> Fault {
        let (at, rest) = (self.at + 1, shown(self.text[self.at..].trim_ascii_end()));
        malformed(match &rest[..] {
            "" => "the npy header ends before its dictionary does".to_owned(),
            rest => format!("the npy header makes no sense from its byte {at} on: \"{rest}\""),
        })
    }
}

/// Of another number of dimensions than one.
fn shaped(dimensions: &[u64]) -> Fault {
    let shape: Vec<_> = dimensions.iter().take(8).map(u64::to_string).collect();
    let more = if dimensions.len() > 8 { ", …" } else { "" };
    let shape = shape.join(", ");
    says(format_args!("shape ({shape}{more}), and one dimension is read; array.ravel() has one"))
}

fn foreign(begins: &[u8]) -> Fault {
    let begins = shown(begins);
    malformed(format!("this is no npy file: it begins with \"{begins}\", not with \"\\x93NUMPY\""))
}

fn says(what: fmt::Arguments<'_>) -> Fault {
    malformed(format!("the npy header says {what}"))
}

fn malformed(message: String) -> Fault {
    Fault::new(FaultKind::Malformed, message)
}

#[cfg(test)]
mod tests;

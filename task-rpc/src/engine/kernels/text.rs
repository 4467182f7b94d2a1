//! From bytes to numbers, as far as tokens are plain: safe functions that pick the level.
//!
//! A kernel takes tokens that it knows to mean what `parse_token` says they mean, and stops at the first one of which it is
//! not sure: that one is the caller's. So a kernel may refuse whatever is rare, and never has to refuse a text.

use crate::engine::simd::{Level, Simd};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decimal;
mod portable;
#[cfg(target_arch = "x86_64")]
mod window;

/// What stands between the numbers, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Between {
    /// Whether the last thing other than white space is a comma.
    pub(crate) comma: bool,
    /// How many values are missing.
    pub(crate) missing: u64,
    /// Offset of the first of them.
    pub(crate) first_missing: Option<usize>,
}

impl Between {
    /// Notes so many missing values, the first of them here.
    pub(crate) fn miss(&mut self, count: u64, first: usize) {
        self.missing += count;
        self.first_missing.get_or_insert(first);
    }
}

/// What bytes that stand between tokens are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A byte of a token.
    Token,
    White,
    Comma,
}

/// The class of every byte.
pub(crate) static CLASS: [Class; 256] = {
    let mut table = [Class::Token; 256];
    let white = b" \t\n\r\x0b\x0c";
    let mut index = 0;
    while index < white.len() {
        table[white[index] as usize] = Class::White;
        index += 1;
    }
    table[b',' as usize] = Class::Comma;
    table
};

/// How many numbers are in a text of this many bytes at most, with what a kernel wants to have left over.
pub(crate) const fn room(bytes: usize) -> usize {
    bytes / 2 + 128
}

/// Appends the numbers of plain tokens that begin in `text[at..stop]` (and of a few behind it), and says where it stopped:
/// at a token that is not plain when that is before `stop`, else at a border between two tokens.
///
/// `at` is a border, as is the end of the text.
pub(crate) fn advance(
    simd: Simd,
    text: &[u8],
    at: usize,
    stop: usize,
    between: &mut Between,
    ints: &mut Vec<i64>,
    floats: &mut Vec<f64>,
) -> usize {
    let stop = stop.min(text.len());
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::advance(simd, text, at, stop, between, ints, floats),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::advance(simd, text, at, stop, between, ints, floats),
        _ => portable::advance(text, at, stop, between, ints, floats),
    }
}

/// How many newlines there are. In plain Rust: 100 GB/s with the 16 bytes at a time that every x86-64 has.
pub(crate) fn newlines(text: &[u8]) -> usize {
    // Sums of bytes that cannot overflow are what the compiler makes vectors of.
    let in_few = |few: &[u8]| few.iter().map(|&byte| u8::from(byte == b'\n')).sum::<u8>();
    text.chunks(192).map(|few| usize::from(in_few(few))).sum()
}

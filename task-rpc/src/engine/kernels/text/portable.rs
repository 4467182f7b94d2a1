//! Text to numbers in plain Rust: eight bytes at a time in a register.

use super::decimal::{LEAST, MOST_FINITE, nearest};
use super::{Between, CLASS, Class, room};

/// As [`super::advance`].
pub(super) fn advance(
    text: &[u8],
    mut at: usize,
    stop: usize,
    between: &mut Between,
    ints: &mut Vec<i64>,
    floats: &mut Vec<f64>,
) -> usize {
    ints.reserve(room(stop.saturating_sub(at)));
    floats.reserve(room(stop.saturating_sub(at)));
    while at < stop {
        match CLASS[usize::from(text[at])] {
            Class::White => at += 1,
            Class::Comma => {
                if between.comma {
                    between.miss(1, at);
                }
                between.comma = true;
                at += 1;
            }
            Class::Token => {
                let Some((value, end)) = plain(text, at) else { return at };
                match value {
                    Value::Int(int) => ints.push(int),
                    Value::Float(float) => floats.push(float),
                    Value::Missing => between.miss(1, at),
                }
                between.comma = false;
                at = end;
            }
        }
    }
    at
}

enum Value {
    Int(i64),
    Float(f64),
    Missing,
}

/// What a token means and where it ends, where that is plain.
#[inline]
fn plain(text: &[u8], at: usize) -> Option<(Value, usize)> {
    let negative = text[at] == b'-';
    let begin = at + usize::from(matches!(text[at], b'-' | b'+'));
    let bytes = eight(text, begin);
    let (first, count) = leading_digits(bytes);
    let mut w = value(first);
    let mut end = begin + count as usize;
    let mut next = (bytes >> (8 * count % 64)) as u8;
    if count == 8 {
        end = digits(text, end, &mut w);
        next = byte(text, end);
    } else if count > 0 && CLASS[usize::from(next)] != Class::Token {
        return Some((Value::Int(if negative { -(w as i64) } else { w as i64 }), end));
    }
    let mut count = end - begin;
    let mut q = 0;
    let float = next == b'.' || next | 0x20 == b'e';
    if next == b'.' {
        let fraction = end + 1;
        end = digits(text, fraction, &mut w);
        q -= i32::try_from(end - fraction).ok()?;
        count += end - fraction;
        next = byte(text, end);
    }
    if count == 0 {
        return missing(text, at).map(|end| (Value::Missing, end));
    }
    // More may have wrapped around, and very many are too many for a token.
    if count > 19 && (count > 1000 || count - zeros(&text[begin..end]) > 19) {
        return None;
    }
    if next | 0x20 == b'e' {
        let sign = byte(text, end + 1);
        let begin = end + 1 + usize::from(matches!(sign, b'-' | b'+'));
        let mut exponent = 0;
        end = digits(text, begin, &mut exponent);
        if !(1..=4).contains(&(end - begin)) {
            return None;
        }
        q += if sign == b'-' { -(exponent as i32) } else { exponent as i32 };
        next = byte(text, end);
    }
    if CLASS[usize::from(next)] == Class::Token {
        return None;
    }
    if !float {
        let int = i64::try_from(w).ok()?;
        return Some((Value::Int(if negative { -int } else { int }), end));
    }
    if !(LEAST..=MOST_FINITE).contains(&q) {
        return None;
    }
    let magnitude = nearest(w, q);
    Some((Value::Float(if negative { -magnitude } else { magnitude }), end))
}

/// Takes the digits from here on into `w`, which wraps when there are many, and says where they end.
#[inline]
fn digits(text: &[u8], mut at: usize, w: &mut u64) -> usize {
    const TENS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    loop {
        let (digits, count) = leading_digits(eight(text, at));
        *w = w.wrapping_mul(TENS[count as usize]).wrapping_add(value(digits));
        at += count as usize;
        if count < 8 {
            return at;
        }
    }
}

/// The digits that eight bytes begin with, behind as many zeros as make eight; and how many there are.
#[inline]
fn leading_digits(bytes: u64) -> (u64, u32) {
    let values = bytes ^ 0x3030_3030_3030_3030;
    let others = (values.wrapping_add(0x0606_0606_0606_0606) | values) & 0xf0f0_f0f0_f0f0_f0f0;
    let count = others.trailing_zeros() / 8;
    (values.checked_shl(64 - 8 * count).unwrap_or(0), count)
}

/// The number that eight digits make, the first in the lowest byte.
#[inline]
pub(super) fn value(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let even = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let odd = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    even.wrapping_add(odd) >> 32
}

/// How many zeros these digits begin with, those behind the point too.
#[cold]
fn zeros(digits: &[u8]) -> usize {
    let begin = digits.iter().take_while(|&&byte| matches!(byte, b'0' | b'.'));
    begin.filter(|&&byte| byte == b'0').count()
}

/// Where a token ends that is one of the words for a missing value.
fn missing(text: &[u8], at: usize) -> Option<usize> {
    let words = [&b"na"[..], b"nan", b"null"];
    let mut ends = words.into_iter().filter_map(|word| {
        let end = at + word.len();
        let is = text.get(at..end)?.eq_ignore_ascii_case(word);
        (is && CLASS[usize::from(byte(text, end))] != Class::Token).then_some(end)
    });
    ends.next()
}

/// The end of the text is as good as white space.
#[inline]
fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(b' ')
}

#[inline]
pub(super) fn eight(text: &[u8], at: usize) -> u64 {
    match text.get(at..).and_then(<[u8]>::first_chunk) {
        Some(eight) => u64::from_le_bytes(*eight),
        None => u64::from_le_bytes(std::array::from_fn(|index| byte(text, at + index))),
    }
}

//! The grammar of numbers as arithmetic on masks: bit `i` of each stands for byte `i` of a window of up to 64 bytes.
//!
//! Adding a mask of run starts to a mask of bytes carries each start through its run: `(starts + run) & !run` is where the
//! runs end, all of them at once. (The idea is simdjson's, which finds strings so.) A window begins at a border between two
//! tokens; all masks are cut behind a byte that stands between tokens, so that no token goes out of it and nothing is carried
//! over its top.

/// What the bytes of a window are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes {
    pub(super) between: u64,
    pub(super) digit: u64,
    pub(super) zero: u64,
    pub(super) dot: u64,
    /// `e` or `E`.
    pub(super) e: u64,
    pub(super) sign: u64,
}

/// Where the parts of numbers are: in each mask one bit a number, in the order of the numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The first digit that is not zero, or the mantissa's end.
    pub(super) significant: u64,
    /// The end of the digits before the point: the point, where there is one.
    pub(super) whole_end: u64,
    /// The end of the mantissa.
    pub(super) mantissa_end: u64,
    /// The first digit of the exponent. The end, where there is no exponent.
    pub(super) exponent: u64,
    /// The end of the number.
    pub(super) end: u64,
    /// Only of numbers with an exponent: its `e`.
    pub(super) e: u64,
    /// Bits somewhere in each token that is not in the grammar of numbers.
    pub(super) bad: u64,
}

/// Finds the parts of the numbers that begin at these bytes.
#[inline]
pub(super) fn numbers(starts: u64, bytes: &Bytes) -> Numbers {
    let Bytes { between, digit, zero, dot, e, sign } = *bytes;
    let signs = starts & sign;
    let first = (starts & !sign) | (signs << 1);
    let whole_end = (first + digit) & !digit;
    let point = whole_end & dot;
    let fraction_end = ((point << 1) + digit) & !digit;
    let mantissa_end = (whole_end & !dot) | fraction_end;
    // No digit before the point, and then no point or no digit behind it either.
    let empty = first & whole_end & (!dot | (fraction_end >> 1));

    let skipped = zero | point;
    let significant = (first + skipped) & !skipped;

    let e = mantissa_end & e;
    let signed = (e << 1) & sign;
    let exponent = ((e << 1) & !signed) | (signed << 1);
    let end = (mantissa_end & !e) | ((exponent + digit) & !digit);
    let bad = empty | (exponent & !digit) | (end & !between);
    Numbers { significant, whole_end, mantissa_end, exponent: exponent | (mantissa_end & !e), end, e, bad }
}

/// The second commas of empty fields. `carried` says whether the last thing other than white space was a comma, before the
/// window and then behind it.
#[inline]
pub(super) fn empty_fields(white: u64, comma: u64, tokens: u64, carried: &mut bool) -> u64 {
    let behind = (comma << 1) | u64::from(*carried);
    // Past a comma at the top it is carried out; the next window is told by `carried`.
    let next = behind.wrapping_add(white) & !white;
    if comma | tokens != 0 {
        *carried = comma > tokens;
    }
    next & comma
}

/// The starts of the words `na`, `nan` and `null`, given where these letters are and what stands between tokens.
#[inline]
pub(super) fn missing(starts: u64, between: u64, [n, a, u, l]: [u64; 4]) -> u64 {
    let na = n & (a >> 1) & ((between >> 2) | ((n >> 2) & (between >> 3)));
    let null = n & (u >> 1) & (l >> 2) & (l >> 3) & (between >> 4);
    starts & (na | null)
}

/// All bits below the start that is the nearest one at or before the lowest bit of `bad`.
#[inline]
pub(super) fn below_start(starts: u64, bad: u64) -> u64 {
    let upto = bad ^ bad.wrapping_sub(1);
    match (starts & upto).checked_ilog2() {
        Some(top) => (1 << top) - 1,
        None => 0,
    }
}

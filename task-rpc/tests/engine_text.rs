//! The parser against the scanner of the protocol, on random texts cut into random chunks, at every level.
//! `CASES` (thousands by default) sets how many.

use task_proto::fault::Fault;
use task_proto::number::{Number, Token};
use task_proto::text::{Place, Scanner};
use task_worker::engine::Simd;
use task_worker::engine::text::{Joined, Parser, RUN, Summary, cut};

fn cases(default: u64) -> u64 {
    std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Default, PartialEq)]
struct Read {
    ints: Vec<i64>,
    floats: Vec<u64>,
    missing: u64,
    first_missing: Option<Place>,
    first_huge: Option<Place>,
    fault: Option<Fault>,
}

fn scanned(text: &[u8]) -> Read {
    let mut read = Read::default();
    let mut scanner = Scanner::default();
    let mut sink = |token, place| {
        match token {
            Token::Number(Number::Int(int)) => read.ints.push(int),
            Token::Number(Number::Float(float)) => read.floats.push(float.to_bits()),
            Token::HugeInt(float) => {
                read.first_huge.get_or_insert(place);
                read.floats.push(float.to_bits());
            }
            Token::Missing => {
                read.missing += 1;
                read.first_missing.get_or_insert(place);
            }
        }
        Ok(())
    };
    let outcome = scanner.push(text, &mut sink).and_then(|()| scanner.finish(&mut sink));
    read.fault = outcome.err();
    read.ints.sort_unstable();
    read.floats.sort_unstable();
    read
}

fn parsed(simd: Simd, chunks: &[&[u8]]) -> Read {
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    let mut joined = Joined::default();
    for (index, chunk) in chunks.iter().enumerate() {
        let chunk = if index == 0 { chunk.strip_prefix(b"\xef\xbb\xbf").unwrap_or(chunk) } else { chunk };
        let mut parser = Parser::new(simd, chunk);
        // Other threads may have parsed what comes behind a fault.
        let ended = joined.fault().is_some();
        let (length, floats_length) = (ints.len(), floats.len());
        while parser.next_run(&mut ints, &mut floats) {}
        let summary: Summary = parser.finish();
        joined.push(&summary);
        if ended {
            ints.truncate(length);
            floats.truncate(floats_length);
        }
    }
    let mut floats: Vec<_> = floats.into_iter().map(f64::to_bits).collect();
    ints.sort_unstable();
    floats.sort_unstable();
    let (missing, fault) = (joined.missing(), joined.fault().cloned());
    let (first_missing, first_huge) = (joined.first_missing(), joined.first_huge());
    Read { ints, floats, missing, first_missing, first_huge, fault }
}

/// Chunks of about these sizes, as a reader cuts them that has so many bytes each time.
fn chunks(text: &[u8], mut size: impl FnMut() -> usize) -> Vec<&[u8]> {
    let (mut chunks, mut begin, mut end) = (Vec::new(), 0, 0);
    loop {
        end = text.len().min(end + size());
        if end == text.len() {
            chunks.push(&text[begin..]);
            return chunks;
        }
        let taken = cut(&text[begin..end]);
        if taken > 0 {
            chunks.push(&text[begin..begin + taken]);
        }
        begin += taken;
    }
}

fn check(text: &[u8], random: &mut Random) {
    let expected = scanned(text);
    for simd in Simd::all() {
        let whole = parsed(simd, &[text]);
        assert!(whole == expected, "{simd:?} {:?}\n{whole:?}\n{expected:?}", text.escape_ascii().to_string());
        let most = if random.below(2) == 0 { 20 } else { 400 };
        let parts = chunks(text, || 1 + random.below(most));
        let found = parsed(simd, &parts);
        assert!(found == expected, "{simd:?} {parts:?}\n{found:?}\n{expected:?}");
    }
}

/// The generator `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn digits(&mut self, most: usize) -> String {
        let length = 1 + self.below(most);
        let few = self.below(4);
        (0..length)
            .map(|_| char::from(b'0' + if few == 0 { self.below(2) as u8 } else { self.below(10) as u8 }))
            .collect()
    }

    fn sign(&mut self) -> &'static str {
        self.one(&["", "", "", "-", "-", "+"])
    }

    fn integer(&mut self, most: usize) -> String {
        format!("{}{}{}", self.sign(), self.one(&["", "", "", "0", "0000000"]), self.digits(most))
    }

    fn float(&mut self) -> String {
        let sign = self.sign();
        match self.below(9) {
            0 => format!("{sign}{}.{}", self.digits(3), self.digits(3)),
            1 => format!("{sign}0.{}{}", self.one(&["", "0", "000", "000000000000"]), self.digits(20)),
            2 => format!("{sign}{}.{}", self.digits(20), self.digits(20)),
            3 => format!("{sign}.{}", self.digits(8)),
            4 => format!("{sign}{}.", self.digits(8)),
            5 => {
                let float = f64::from_bits(self.next());
                if float.is_finite() { format!("{float:e}") } else { "1e5".into() }
            }
            6 => format!(
                "{sign}{}{}{}{}{}",
                self.digits(19),
                self.one(&["", ".", ".5", ".000"]),
                self.one(&["e", "E"]),
                self.one(&["", "-", "+"]),
                self.digits(3)
            ),
            7 => format!(
                "{sign}{}e{}{}{}",
                self.digits(3),
                self.one(&["", "-", "+"]),
                self.one(&["0000", "0000000000", "429496729", "1844674407370955161", "1000", ""]),
                self.digits(2)
            ),
            _ => {
                // Halfway between two floats of 54 bits, exactly or nearly.
                let odd = (self.next() >> 10) | (1 << 53) | 1;
                let shift = self.below(11);
                format!(
                    "{}{}",
                    u128::from(odd) << shift,
                    self.one(&["", ".", ".0", "e0", ".000000001", "e-3", "e-25"])
                )
            }
        }
    }

    fn token(&mut self, kind: usize) -> String {
        match (kind, self.below(12)) {
            (0, _) => self.integer(3),
            (1, _) => self.integer(8),
            (2, 0) | (3, 0..4) | (5, 0..3) => self.integer(20),
            (2, 1) => self.integer(16),
            (2, _) => self.integer(12),
            (4, 0..4) | (5, 3) => {
                self.one(&["NA", "na", "nan", "NaN", "null", "NULL", "-nan", "inf", "-Infinity"]).into()
            }
            (4, _) => self.integer(4),
            (6, 0) => format!(
                "{}{}",
                self.sign(),
                self.one(&[
                    "9223372036854775807",
                    "9223372036854775808",
                    "9223372036854775809",
                    "99999999999999999999"
                ])
            ),
            _ => self.float(),
        }
    }

    fn broken(&mut self) -> Vec<u8> {
        let wrong = [
            "x",
            "-",
            "+",
            ".",
            "-.",
            "e5",
            "1e",
            "1e+",
            ".e1",
            "1.2.3",
            "1_000",
            "0x10",
            "1e5.0",
            "--1",
            "+-1",
            "1-",
            "1+2",
            "infin",
            "nana",
            "+NA",
            "-null",
            "nil",
            "nul",
            "n",
            "1f",
            "\u{661}",
            "½",
            "\0",
            "1e400",
            "-1e309",
            "1;2",
            "\u{feff}1",
            "5.e",
            "1ee5",
            "1e-",
            "1/2",
            "1:2",
        ];
        match self.below(8) {
            0 => vec![self.next() as u8 | 0x80],
            1 => (0..=self.below(5)).map(|_| self.next() as u8).collect(),
            _ => self.one(&wrong).into(),
        }
    }

    fn separator(&mut self, kind: usize) -> String {
        match (kind, self.below(40)) {
            (_, 0) => (0..self.below(70)).map(|_| " ").collect(),
            (_, 1) => self.one(&[",,", ", ,", ",\n,", ",,,"]).into(),
            (0, _) => "\n".into(),
            (1, _) => "\r\n".into(),
            (2, _) => ",".into(),
            (3, _) => ", ".into(),
            (4, _) => " ".into(),
            _ => {
                (0..=self.below(3)).map(|_| self.one(&[" ", "\t", "\r", "\n", "\x0b", "\x0c", ","])).collect()
            }
        }
    }

    fn text(&mut self, tokens: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let (mut kind, mut separator) = (self.below(8), self.below(8));
        if self.below(3) == 0 {
            text.extend(self.one(&["\u{feff}", " ", ",", "\n", " ,", ",,"]).bytes());
        }
        let mut broken = if self.below(3) == 0 { self.below(tokens + 1) } else { usize::MAX };
        for index in 0..self.below(tokens + 1) {
            if self.below(30) == 0 {
                (kind, separator) = (self.below(8), self.below(8));
            }
            if index == broken {
                text.extend(self.broken());
                broken = usize::MAX;
            } else {
                text.extend(self.token(kind).bytes());
            }
            text.extend(self.separator(separator).bytes());
        }
        if self.below(2) == 0 {
            text.extend(self.token(kind).bytes());
        }
        text
    }
}

#[test]
fn chunks_give_what_the_scanner_gives() {
    let mut random = Random(1);
    for _ in 0..cases(20_000) {
        let tokens = 1 + random.below(60);
        let text = random.text(tokens);
        check(&text, &mut random);
    }
}

#[test]
fn texts_of_many_runs_give_what_the_scanner_gives() {
    let mut random = Random(2);
    for _ in 0..cases(20_000) / 200 {
        let text = random.text(8 * RUN / 4);
        check(&text, &mut random);
    }
}

#[test]
fn every_token_is_read_wherever_in_a_window_it_stands() {
    let mut random = Random(3);
    for _ in 0..cases(20_000) / 500 {
        let kind = random.below(8);
        let token = if random.below(3) == 0 { random.broken() } else { random.token(kind).into_bytes() };
        for before in 0..130 {
            let mut text = vec![random.one(&[" ", "1\n", ",", "3.5\n"]).as_bytes(); before].concat();
            text.extend(&token);
            text.extend(random.one(&["", "\n", ",", ",,", " 7"]).as_bytes());
            check(&text, &mut random);
        }
    }
}

#[test]
fn all_bytes_are_judged_alike() {
    let mut random = Random(4);
    for first in 0..=255 {
        for second in 0..=255 {
            check(&[b'1', first, second, b'2'], &mut random);
            check(&[b'.', first, second, b'\n', b'2'], &mut random);
        }
        check(&[first], &mut random);
    }
}

#[test]
fn tokens_may_be_long_but_not_too_long() {
    let mut random = Random(5);
    for length in [63, 64, 65, 128, 1000, 64 * 1024, 64 * 1024 + 1, 200_000] {
        for lead in ["", "1 ", "1\n2 ,,"] {
            for body in ["0", "7", "x"] {
                for tail in ["", "\n", " 3"] {
                    let text = format!("{lead}{}{tail}", body.repeat(length)).into_bytes();
                    let expected = scanned(&text);
                    for simd in Simd::all() {
                        assert_eq!(parsed(simd, &[&text]), expected);
                        for size in [1000, 100_000, 70_000] {
                            let parts = chunks(&text, || size + random.below(10));
                            assert_eq!(
                                parsed(simd, &parts),
                                expected,
                                "{length} {lead:?} {body} {tail:?} {size}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn floats_are_the_nearest_ones() {
    let mut random = Random(6);
    let per_text = 1000;
    for case in 0..cases(20_000) / 100 {
        let mut text = String::new();
        let mut expected = Vec::new();
        for _ in 0..per_text {
            let token = match case % 5 {
                0 => random.float(),
                1 => {
                    let bits = random.next() & !(1 << 62) & !(1 << 61) | (random.next() & (1 << 61));
                    format!("{}", f64::from_bits(bits & !(0x1ff << 53) | (0x1f0 << 53)))
                }
                2 => {
                    let float = f64::from_bits(random.next());
                    format!("{:.*e}", random.below(18), if float.is_finite() { float } else { 1.5 })
                }
                3 => format!("{}e{}", random.next() >> random.below(64), random.below(660) as i32 - 350),
                _ => format!("{}.{:017}", random.below(10), random.next() % 100_000_000_000_000_000),
            };
            let Ok(float) = token.parse::<f64>() else { continue };
            if float.is_finite() && token.contains(['.', 'e', 'E']) {
                expected.push(float.to_bits());
                text += &token;
                text.push('\n');
            }
        }
        expected.sort_unstable();
        for simd in Simd::all() {
            let found = parsed(simd, &[text.as_bytes()]);
            assert_eq!((found.floats.len(), found.fault), (expected.len(), None));
            assert!(found.floats == expected, "{simd:?} case {case}");
        }
    }
}

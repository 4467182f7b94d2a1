//! A text's numbers, chunk by chunk: what [`Scanner`] gives, at the speed of memory and on several threads.
//!
//! A chunk begins and ends at a border between two tokens ([`cut`]), and is parsed by itself, on any thread and in any
//! order. Its [`Summary`] says what joins it to the others: [`Joined`] takes them in order, and knows the places in the
//! whole text as `Scanner` does. A byte order mark at the start of the text is no part of the first chunk: columns and
//! offsets count from behind it.
//!
//! Plain tokens are read by the kernels; whatever else there is goes to [`parse_token`], which alone says what a token
//! means.

mod joined;

use task_proto::fault::Fault;
use task_proto::limits::TOKEN;
use task_proto::number::{Number, Token, parse_token};
use task_proto::text::Scanner;

use crate::engine::kernels::text::{self as kernel, Between, CLASS, Class};
use crate::engine::simd::Simd;

pub use joined::{Joined, Spot, Summary};

/// Bytes of a run. The numbers of one fit into the nearest cache with their text, where what counts them finds them.
pub const RUN: usize = 16 * 1024;
/// How many numbers of a kind one run appends at most, with room for what the kernels write behind them: a `Vec` with so
/// much room left does not grow.
pub const RUN_ROOM: usize = kernel::room(RUN) + 64;

/// The chunk of a text that is being parsed, in runs: between two of them the caller takes the numbers away.
#[derive(Debug)]
pub struct Parser<'a> {
    simd: Simd,
    chunk: &'a [u8],
    /// Where the last run began, and the next begins.
    begin: usize,
    at: usize,
    between: Between,
    newlines: usize,
    first_huge: Option<usize>,
    fault: Option<(usize, Fault)>,
}

impl<'a> Parser<'a> {
    /// A parser of this chunk.
    pub fn new(simd: Simd, chunk: &'a [u8]) -> Self {
        let between = Between::default();
        Parser { simd, chunk, begin: 0, at: 0, between, newlines: 0, first_huge: None, fault: None }
    }

    /// Appends the numbers of some [`RUN`] bytes, in any order. `false` when there are no more: the chunk is at its end,
    /// or a fault has ended it.
    pub fn next_run(&mut self, ints: &mut Vec<i64>, floats: &mut Vec<f64>) -> bool {
        let begin = self.at;
        self.begin = begin;
        if self.fault.is_some() || begin == self.chunk.len() {
            return false;
        }
        let stop = self.chunk.len().min(begin + RUN);
        while self.at < stop {
            let between = &mut self.between;
            self.at = kernel::advance(self.simd, self.chunk, self.at, stop, between, ints, floats);
            if self.at < stop
                && let Err(fault) = self.take_token(ints, floats)
            {
                self.fault = Some((self.at, fault));
                return true;
            }
        }
        self.newlines += kernel::newlines(&self.chunk[begin..self.at]);
        true
    }

    /// Ends the chunk before the run that [`next_run`](Parser::next_run) has given last, with this fault.
    pub fn refuse_run(&mut self, fault: Fault) {
        self.fault = Some((self.begin, fault));
    }

    /// Takes the token that begins here.
    fn take_token(&mut self, ints: &mut Vec<i64>, floats: &mut Vec<f64>) -> Result<(), Fault> {
        let rest = &self.chunk[self.at..];
        let rest = &rest[..rest.len().min(TOKEN + 1)];
        let token = &rest[..rest.iter().position(|&byte| is_between(byte)).unwrap_or(rest.len())];
        if token.len() > TOKEN {
            return Err(refusal(token));
        }
        match parse_token(token) {
            Ok(Token::Number(Number::Int(int))) => ints.push(int),
            Ok(Token::Number(Number::Float(float))) => floats.push(float),
            Ok(Token::HugeInt(float)) => {
                self.first_huge.get_or_insert(self.at);
                floats.push(float);
            }
            Ok(Token::Missing) => self.between.miss(1, self.at),
            Err(_) => return Err(refusal(token)),
        }
        self.between.comma = false;
        self.at += token.len();
        Ok(())
    }

    /// What there is to know of the chunk besides its numbers, once [`next_run`](Parser::next_run) has said `false`.
    pub fn finish(self) -> Summary {
        let Parser { chunk, between, newlines, .. } = self;
        let first = chunk.iter().position(|&byte| CLASS[usize::from(byte)] != Class::White);
        let spot = |offset: usize| Spot::new(chunk, offset);
        Summary {
            length: chunk.len() as u64,
            newlines: newlines as u64,
            line_start: if newlines > 0 { Spot::line_start(chunk) } else { None },
            leading_comma: first.filter(|&first| chunk[first] == b',').map(spot),
            trailing_comma: between.comma,
            blank: first.is_none(),
            missing: between.missing,
            first_missing: between.first_missing.map(spot),
            first_huge: self.first_huge.map(spot),
            fault: self.fault.map(|(offset, fault)| (spot(offset), fault)),
        }
    }
}

/// How much of these bytes, which more follow, a chunk takes: up to behind the last byte that stands between two tokens.
/// Without such a byte it is nothing, or, when there is already more of the token than one may have, all.
pub fn cut(bytes: &[u8]) -> usize {
    let token = bytes.iter().rev().take(TOKEN + 1).take_while(|&&byte| !is_between(byte)).count();
    if token > TOKEN { bytes.len() } else { bytes.len() - token }
}

fn is_between(byte: u8) -> bool {
    CLASS[usize::from(byte)] != Class::Token
}

/// What a scanner says of this token, without the place. (White space before it, lest it begin with a byte order mark.)
fn refusal(token: &[u8]) -> Fault {
    let mut scanner = Scanner::default();
    let outcome = scanner.push(b" ", |_, _| Ok(())).and_then(|()| scanner.push(token, |_, _| Ok(())));
    let outcome = outcome.and_then(|()| scanner.finish(|_, _| Ok(())));
    let kind = task_proto::fault::FaultKind::Internal;
    let fault = outcome.err().unwrap_or_else(|| Fault::new(kind, "a token was refused and is a number"));
    Fault { line: None, column: None, ..fault }
}

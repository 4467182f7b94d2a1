//! Text to numbers: however it is cut, and with whatever instructions, it is the same text.

use task_proto::fault::Fault;
use task_proto::number::{Number, Token};
use task_proto::text::{BOM, Place, Scanner, foreign};
use task_worker::engine::Simd;
use task_worker::engine::text::{Joined, Parser, cut};

/// What there is in a text. Of the numbers nobody asks in which order they come.
#[derive(Debug, Default, PartialEq)]
struct Read {
    ints: Vec<i64>,
    floats: Vec<u64>,
    missing: u64,
    first_missing: Option<Place>,
    first_huge: Option<Place>,
    fault: Option<Fault>,
}

/// The first byte says where a text is cut, the rest is the text.
pub fn text(data: &[u8]) -> u64 {
    let Some((&size, text)) = data.split_first() else { return 0 };
    let size = usize::from(size) + 1;
    let whole = scanned([text]);
    assert_eq!(whole, scanned(text.chunks(size)), "in blocks of {size}");
    for simd in Simd::all() {
        assert_eq!(whole, parsed(simd, text, size), "{simd:?}, in chunks of {size}");
    }
    (whole.ints.len() + whole.floats.len()) as u64 + whole.missing
}

fn scanned<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut read = Read::default();
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
    let mut scanner = Scanner::default();
    let pushed = blocks.into_iter().try_for_each(|block| scanner.push(block, &mut sink));
    let fault = pushed.and_then(|()| scanner.finish(&mut sink)).err();
    sorted(Read { fault, ..read })
}

/// In chunks of about this size, as the engine's threads take them.
fn parsed(simd: Simd, text: &[u8], size: usize) -> Read {
    let mut rest = text.strip_prefix(BOM).unwrap_or(text);
    if let Some(fault) = foreign(rest) {
        return Read { fault: Some(fault), ..Read::default() };
    }
    let (mut ints, mut floats, mut joined) = (Vec::new(), Vec::new(), Joined::default());
    while !rest.is_empty() && joined.fault().is_none() {
        let whole = (size..rest.len()).step_by(size).map(|end| cut(&rest[..end])).find(|&end| end > 0);
        let (chunk, behind) = rest.split_at(whole.unwrap_or(rest.len()));
        let mut parser = Parser::new(simd, chunk);
        while parser.next_run(&mut ints, &mut floats) {}
        joined.push(&parser.finish());
        rest = behind;
    }
    sorted(Read {
        ints,
        floats: floats.into_iter().map(f64::to_bits).collect(),
        missing: joined.missing(),
        first_missing: joined.first_missing(),
        first_huge: joined.first_huge(),
        fault: joined.fault().cloned(),
    })
}

fn sorted(mut read: Read) -> Read {
    read.ints.sort_unstable();
    read.floats.sort_unstable();
    read
}

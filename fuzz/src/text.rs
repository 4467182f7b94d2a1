//! Text to tokens: however it is cut into blocks, it is the same text.

use task_proto::fault::Fault;
use task_proto::number::Token;
use task_proto::text::{Place, Scanner};

/// The first byte says where a text is cut, the rest is the text.
pub fn text(data: &[u8]) -> u64 {
    let Some((&cut, text)) = data.split_first() else { return 0 };
    let whole = scan([text]);
    let blocks = scan(text.chunks(usize::from(cut) + 1));
    assert_eq!(whole, blocks);
    whole.0.len() as u64
}

/// The tokens with their places, and what the text ended with; not by their values, as a NaN is not itself.
fn scan<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, Place)>, Option<Fault>) {
    let mut tokens = Vec::new();
    let mut sink = |token: Token, place| {
        tokens.push((format!("{token:?}"), place));
        Ok(())
    };
    let mut scanner = Scanner::default();
    let pushed = blocks.into_iter().try_for_each(|block| scanner.push(block, &mut sink));
    let ended = pushed.and_then(|()| scanner.finish(&mut sink)).err();
    (tokens, ended)
}

//! A worker that writes what no terminal should see: bytes that are no UTF-8, escape sequences, and a line of 1 MB without
//! an end: as one does that prints its input, or a core.

mod canned;

use std::io::Write;
use task_worker::WorkerError;

fn main() -> Result<(), WorkerError> {
    write_oddly(&mut std::io::stdout().lock());
    write_oddly(&mut std::io::stderr().lock());
    canned::serve(|| write_oddly(&mut std::io::stderr().lock()))
}

fn write_oddly(to: &mut impl Write) {
    let endless = vec![b'e'; 1_000_000];
    let odd: [&[u8]; 5] = [
        b"no UTF-8: \xff\xfe\x80 and a NUL \0 and half a letter \xe2\x82\n",
        b"\x1b[2J\x1b]0;title\x07 clears the screen\r\n",
        "turns \u{202e}around\u{202c} and \u{9b}31m steers\n".as_bytes(),
        b"{\"level\":\"INFO\",\"fields\":{\"message\":\"\\u001b[2Jin JSON\"}}\n",
        &endless,
    ];
    for bytes in odd {
        to.write_all(bytes).and_then(|()| to.flush()).expect("somebody must read this");
    }
}

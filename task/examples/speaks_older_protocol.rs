//! A worker of an older build: it shares no protocol with its host, says so and exits 78.

use std::process::ExitCode;

use task_proto::handshake::{Answer, EXIT_REFUSED, receive_hello, send_answer};

fn main() -> ExitCode {
    let stdin = rustix::stdio::stdin();
    receive_hello(stdin).expect("a host says hello");
    send_answer(stdin, &Answer::Refused { protocol: [0, 0], reason: None }).expect("a host hears the answer");
    EXIT_REFUSED.into()
}

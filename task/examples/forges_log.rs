//! A worker that writes log lines in its host's name, with another run, process, time and number: as one does that was
//! taken over by its input.

mod canned;

use task_worker::WorkerError;

fn main() -> Result<(), WorkerError> {
    for stream in ["stdout", "stderr"] {
        let line = format!(
            r#"{{"time":"2001-01-01T00:00:00Z","run":"forged","pid":1,"seq":999999,"source":"task","stream":"{stream}","level":"ERROR","target":"task_host","message":"forged record","fields":{{"message":"forged message"}}}}"#
        );
        if stream == "stdout" { println!("{line}") } else { eprintln!("{line}") }
    }
    canned::serve(|| {})
}

//! What clients of `task serve` see while it is done every kind of harm: the service's faults, a row for each.
//!
//! ```console
//! $ cargo test -p task --test service             # all rows, in a few minutes; make test has built the workers
//! $ cargo test -p task --test service -- poison   # one row
//! $ make faults                                   # all that is demanded, in some hours, with a table at the end
//! $ make faults ROW=poison COUNT=10 SEED=7
//! ```
//!
//! `FAULTS=long` asks for all that is demanded, times included; `COUNT` sets how many faults a row makes (how many
//! seconds those take that go by time), `SEED` how they are drawn. This process adopts every process that loses its parent here, and so sees each one that is left.
//! Every answer is compared with what plain exact means make of the same numbers: a call counts once its value is
//! checked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attack;
#[path = "../faults/house.rs"]
#[expect(dead_code, reason = "the tests of one-shot runs use the rest")]
mod house;
mod inputs;
mod load;
#[path = "../faults/moments.rs"]
mod moments;
mod oracle;
mod ours;
mod report;
mod service;
mod tally;
mod victim;
#[path = "../../examples/tripwires/wires.rs"]
mod wires;

mod attacked;
mod crowd;
mod garbage;
mod gives_up;
mod hand_over;
mod killed_host;
mod killed_worker;
mod poison;
mod signalled;
mod soak;
mod stuck;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use report::{Report, Scale};

/// A kind of fault.
struct Row {
    name: &'static str,
    fault: &'static str,
    run: fn(Scale) -> Report,
}

const ROWS: [Row; 14] = [
    Row {
        name: "killed-worker",
        fault: "`kill -9` of the child once each of 4 clients has had an answer from it",
        run: killed_worker::after_answers,
    },
    Row {
        name: "stray-term",
        fault: "SIGTERM to the child from somebody else, once 4 clients have had an answer",
        run: killed_worker::by_stray_term,
    },
    Row {
        name: "killed-any-time",
        fault: "`kill -9` of the child at any moment, start-up included",
        run: killed_worker::at_any_time,
    },
    Row { name: "killed-host", fault: "`kill -9` of the parent at random moments", run: killed_host::run },
    Row {
        name: "signalled",
        fault: "INT and TERM at random, start-up included, single and doubled",
        run: signalled::run,
    },
    Row { name: "hand-over", fault: "hand-over under load", run: hand_over::run },
    Row {
        name: "stuck",
        fault: "SIGSTOP of the child; a computing thread that spins; an I/O loop that blocks",
        run: stuck::run,
    },
    Row { name: "gives-up", fault: "a child that dies at start", run: gives_up::run },
    Row { name: "poison", fault: "a request that aborts the child", run: poison::run },
    Row {
        name: "crowd",
        fault: "more clients than connections, some with pipes, and hand-overs",
        run: crowd::run,
    },
    Row {
        name: "attacked",
        fault: "length bombs, half frames, slow senders, readers that never read, descriptors of every kind",
        run: attacked::run,
    },
    Row { name: "garbage", fault: "messages of both protocols, changed at random", run: garbage::run },
    Row { name: "soak", fault: "load with random faults: the parent", run: soak::with_faults },
    Row { name: "calm", fault: "load without faults: the child", run: soak::without_faults },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, socket] = &words[..]
        && flag == "--attack"
    {
        attack::run(name, socket);
        return ExitCode::SUCCESS;
    }
    if words.iter().any(|word| word == "--list") {
        for row in &ROWS {
            println!("{}: test", row.name);
        }
        return ExitCode::SUCCESS;
    }
    // Flags of cargo's own harness mean nothing here.
    let names: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |row: &&Row| names.is_empty() || names.iter().any(|name| row.name.contains(&***name));
    let set = |name| std::env::var(name).ok().filter(|set| !set.is_empty());
    let number = |name| set(name).map(|set| set.parse::<u64>().expect("a number"));
    let scale = Scale {
        long: set("FAULTS").is_some_and(|faults| faults == "long"),
        count: number("COUNT").map(|count| count as usize),
        seed: number("SEED").unwrap_or_else(rand::random),
    };
    oracle::check();

    let (mut table, mut met, mut not_met) = (Vec::new(), 0, 0);
    for row in ROWS.iter().filter(wanted) {
        println!("{}: {}", row.name, row.fault);
        let start = Instant::now();
        let cells = if let Ok(report) = catch_unwind(|| (row.run)(scale)) {
            print!("{}", report.text());
            *(if report.is_met() { &mut met } else { &mut not_met }) += 1;
            report.cells()
        } else {
            println!("  it broke off; seed {}", scale.seed);
            not_met += 1;
            "broke off | | **not met**".to_owned()
        };
        println!("  {:.1} s\n", start.elapsed().as_secs_f64());
        table.push(format!("| {} | {cells} |", row.fault));
    }
    println!("| fault | seen | times, p50 / p99 / max | demand |\n|---|---|---|---|\n{}\n", table.join("\n"));
    let verdict = if not_met == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {met} passed; {not_met} failed; 0 ignored; 0 measured");
    ExitCode::from(u8::from(not_met > 0))
}

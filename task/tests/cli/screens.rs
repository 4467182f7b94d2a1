//! What a terminal shows.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::Signal;

use crate::invocation::Home;
use crate::serve::{serves, stopped};
use crate::terminal::Terminal;

/// The first screen of a newcomer, as the README has it.
pub const FIRST: &str = "\
TIME INFO task      spawned task-rpc pid=PID generation=1
TIME INFO task-rpc  serving Stats socket=SOCKET sandbox=full
TIME INFO task      ready in N ms
Type numbers, Enter for mean, median and mode. Ctrl-D ends.
> 3 1 3 1 2
mean    2
median  2
mode    1, 3 (2 of 5 each)
> 
TIME INFO task      stopping pid=PID
TIME INFO task-rpc  drained calls=3
TIME INFO task      task-rpc exited 0; pipes closed; socket removed
";

/// Without a terminal and without input.
pub const SAMPLE: &str = "\
TIME INFO task      spawned task-rpc pid=PID generation=1
TIME INFO task-rpc  serving Stats socket=SOCKET sandbox=full
TIME INFO task      ready in N ms
no input: using the sample 1 5 3 1 13 5 2 4
mean    4.25
median  3.5
mode    1, 5 (2 of 8 each)
TIME INFO task      stopping pid=PID
TIME INFO task-rpc  drained calls=3
TIME INFO task      task-rpc exited 0; pipes closed; socket removed
";

/// The text with what differs from run to run replaced by its name.
pub fn normalised(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        for (index, word) in words.iter().enumerate() {
            let word = match (word.split_once('='), words.get(index + 1)) {
                (Some(("pid", _)), _) => "pid=PID",
                (Some(("socket", path)), _) if is_a_socket(path) => "socket=SOCKET",
                (None, Some(&"ms")) => "N",
                _ if is_a_time(word) => "TIME",
                _ => word,
            };
            let _ = write!(normal, "{}{word}", if index > 0 { " " } else { "" });
        }
        normal.push('\n');
    }
    normal
}

/// `09:14:02.101`
fn is_a_time(word: &str) -> bool {
    let like = b"00:00:00.000";
    word.len() == like.len()
        && word
            .bytes()
            .zip(like)
            .all(|(byte, like)| if *like == b'0' { byte.is_ascii_digit() } else { byte == *like })
}

/// `/run/user/1000/task/run-4120-9f3c6a1b/rpc.sock`
fn is_a_socket(path: &str) -> bool {
    let Some((dir, "rpc.sock")) = path.rsplit_once('/') else { return false };
    let Some((base, run)) = dir.rsplit_once('/') else { return false };
    let parts: Vec<&str> = run.split('-').collect();
    base.starts_with('/')
        && matches!(parts[..], ["run", pid, nonce] if pid.parse::<u32>().is_ok() && nonce.len() == 8)
}

#[test]
fn a_newcomer_sees_the_first_screen() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["--color", "never"]);
    terminal.shows("> ");
    terminal.types("3 1 3 1 2\n");
    terminal.shows("\n> ");
    terminal.types("\x04");
    let (screen, status) = terminal.ends();
    assert_eq!(normalised(&screen), FIRST);
    assert!(status.success(), "{status}");
}

#[test]
fn without_a_terminal_and_without_input_a_sample_is_answered() {
    let home = Home::new();
    let ended = home.task::<&str>([]).with(|command| command.stdin(std::process::Stdio::null())).ends();
    assert!(ended.status.success(), "{ended}");
    assert_eq!(ended.stdout, "mean    4.25\nmedian  3.5\nmode    1, 5 (2 of 8 each)\n", "{ended}");
    let told: Vec<&str> = SAMPLE.lines().filter(|line| !line.starts_with('m')).collect();
    assert_eq!(normalised(&ended.stderr).lines().collect::<Vec<_>>(), told, "{ended}");
}

#[test]
fn the_sample_is_answered_before_the_worker_is_stopped() {
    let home = Home::new();
    let ended = home.run("sh", ["-c", &format!("{} </dev/null 2>&1", crate::invocation::TASK)]).ends();
    assert_eq!(normalised(&ended.stdout), SAMPLE, "{ended}");
}

#[test]
fn the_prompt_answers_line_by_line_and_returns_after_a_bad_one() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["-q"]);
    for (typed, shown) in [
        ("1 2 2 3\n", "1 2 2 3\nmean    2\nmedian  2\nmode    2 (2 of 4)\n> "),
        ("\n", "\n> "),
        ("1 abc 3\n", "1 abc 3\ntask: column 3: \"abc\" is not a number\n> "),
        (
            "1,,3\n",
            "1,,3\ntask: column 3: a value is missing here; --missing skip leaves such values out\n> ",
        ),
        ("1e400\n", "1e400\ntask: \"1e400\" is beyond the range of a 64-bit float\n> "),
        (",\n", ",\ntask: there are no numbers in the input\n> "),
        ("-5 .5\n", "-5 .5\nmean    -2.25\nmedian  -2.25\nmode    none (every value occurs once)\n> "),
    ] {
        terminal.shows("> ");
        terminal.types(typed);
        // Not the prompt: the next turn waits for it.
        terminal.shows(shown.strip_suffix("> ").unwrap());
    }
    terminal.shows("> ");
    terminal.types("\x04");
    let (screen, status) = terminal.ends();
    assert!(status.success() && screen.ends_with("> \n"), "{screen}");
}

#[test]
fn ctrl_c_at_the_prompt_cleans_up_and_dies_of_it() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["--color", "never"]);
    terminal.shows("> ");
    terminal.types("\x03");
    let screen = normalised(&terminal.dies_of_ctrl_c());
    assert!(
        screen.ends_with("TIME INFO task      task-rpc exited 0; pipes closed; socket removed\n"),
        "{screen}"
    );
}

#[test]
fn ctrl_backslash_at_the_prompt_kills_and_cleans_up() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["--color", "never"]);
    terminal.shows("> ");
    terminal.types("\x1c");
    let (screen, status) = terminal.ends();
    assert_eq!(status.signal(), Some(Signal::QUIT.as_raw()), "{screen}");
    assert!(normalised(&screen).contains("task-rpc killed by SIGKILL"), "{screen}");
}

#[test]
fn a_line_that_is_typed_for_a_dash_is_read_to_ctrl_d() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["1", "-"]);
    terminal.types("2 3\n");
    terminal.shows("2 3\n");
    terminal.types("\x04");
    let (screen, status) = terminal.ends();
    assert!(status.success(), "{screen}");
    assert_eq!(screen, "2 3\nmean    2\nmedian  2\nmode    none (every value occurs once)\n");
}

#[test]
fn ctrl_c_ends_the_wait_for_a_fifo_that_nobody_writes() {
    let home = Home::new();
    assert!(home.run("mkfifo", ["fifo"]).ends().status.success());
    let mut terminal = Terminal::start(&home, &["-v", "fifo"]);
    terminal.shows("ready in ");
    terminal.types("\x03");
    let screen = terminal.dies_of_ctrl_c();
    assert!(!screen.contains("\nmean "), "{screen}");
}

#[test]
fn only_a_terminal_gets_colours() {
    let home = Home::new();
    let colours = |words: &[&str]| {
        let (screen, status) = Terminal::start(&home, words).ends();
        assert!(status.success(), "{screen}");
        screen.contains("\x1b[")
    };
    assert!(colours(&["-v", "1"]));
    assert!(!colours(&["-v", "--color", "never", "1"]));
    let piped = home.task(["-v", "1"]).ends();
    assert!(!piped.stderr.contains('\x1b') && piped.stderr.contains("spawned"), "{piped}");
}

/// The screen of a run that waits for the rest of its input for longer than a second, on a terminal of this kind.
fn waits(kind: Option<&str>, words: &[&str], drawn: bool) -> String {
    let home = Home::new();
    let fifo = home.path("files/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    home.file("a.txt", "4\n".repeat(1000));
    let mut run = Terminal::start_as(&home, &[words, &["a.txt", "fifo"]].concat(), kind);
    let mut writer = std::fs::File::options().write(true).open(&fifo).unwrap();
    writer.write_all(b"4\n").unwrap();
    if drawn {
        run.shows("read 2.0 KiB");
        run.shows("\x1b[Kread 2.0 KiB");
    } else {
        std::thread::sleep(Duration::from_millis(1500));
    }
    drop(writer);
    let (screen, status) = run.ends();
    assert!(status.success(), "{status}\n{screen}");
    screen
}

const WAITED_FOR: &str = "mean    4\nmedian  4\nmode    4 (1001 of 1001)\n";

#[test]
fn how_much_has_been_read_is_shown_after_a_second_and_is_gone_before_the_answer() {
    let screen = waits(Some("xterm"), &[], true);
    assert!(!screen.contains('%'), "nobody knows how much will come: {screen:?}");
    let lines = screen.strip_suffix(WAITED_FOR).expect(&screen);
    assert!(lines.starts_with("\x1b[Kread ") && lines.ends_with("\x1b[K"), "{screen:?}");
}

#[test]
fn how_much_a_service_has_read_of_ones_own_input_is_shown_too() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let fifos = ["mine", "other"].map(|name| {
        let fifo = home.path("files").join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fifo
    });
    let mut runs =
        ["mine", "other"].map(|name| Terminal::start_as(&home, &["call", "mean", name], Some("xterm")));
    let writers = fifos.map(|fifo| std::fs::File::options().write(true).open(fifo).unwrap());
    for (mut writer, lines) in writers.iter().zip([512, 1024]) {
        writer.write_all("4\n".repeat(lines).as_bytes()).unwrap();
    }
    for (run, shown) in runs.iter_mut().zip(["read 1.0 KiB", "read 2.0 KiB"]) {
        run.shows(shown);
    }
    drop(writers);
    for (run, shown) in runs.into_iter().zip(["read 2.0 KiB", "read 1.0 KiB"]) {
        let (screen, status) = run.ends_beside_others();
        assert!(status.success() && screen.ends_with("\x1b[K4\n"), "{status}\n{screen:?}");
        assert!(!screen.contains(shown), "that is the other's: {screen:?}");
    }
    stopped(service);
}

#[test]
fn how_much_has_been_read_does_not_stand_between_the_lines_of_the_log() {
    let screen = waits(Some("xterm"), &["-v"], true);
    for line in screen.lines() {
        let left = line.rsplit("\x1b[K").next().unwrap();
        assert!(!left.contains("read 2.0 KiB"), "it was not erased: {line:?} of {screen:?}");
    }
}

#[test]
fn how_much_has_been_read_is_not_shown_where_it_could_not_be_erased_or_nobody_asked() {
    std::thread::scope(|scope| {
        for (kind, words) in [(Some("dumb"), &[][..]), (None, &[]), (Some("xterm"), &["-q"])] {
            scope.spawn(move || assert_eq!(waits(kind, words, false), WAITED_FOR));
        }
        let json = scope.spawn(|| waits(Some("xterm"), &["--json"], false));
        assert!(json.join().unwrap().starts_with("{\"count\""));
    });
}

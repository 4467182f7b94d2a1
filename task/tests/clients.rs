//! The clients of `examples/`, each in its own language, ask a running service.
//!
//! Where a language is missing its test is skipped, and says so; with `TASK_TEST_ALL_CLIENTS=1` it fails.

#![expect(unreachable_pub, reason = "a program has no outside: pub is what a module offers the others")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in a function of its own too")]

#[path = "cli/invocation.rs"]
#[expect(dead_code, reason = "the tests of the command line, which have it too, use the rest")]
mod invocation;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::invocation::{Ended, Home, Invocation, Running, TASK};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
const NUMBERS: [&str; 8] = ["1", "5", "3", "1", "13", "5", "2", "4"];
const EMPTY: &str = "there are no numbers in the input";

/// Whether there is what a test needs: the shell command does not fail.
fn is_there(home: &Home, name: &str, needed: &str) -> bool {
    let there = home.run("sh", ["-c", needed]).ends().status.success();
    if !there {
        let all = std::env::var_os("TASK_TEST_ALL_CLIENTS").is_some_and(|all| all == "1");
        assert!(!all, "there is no {name}");
        // Of a test that passes `eprintln!` is not shown.
        std::io::stderr().write_all(format!("skipped: there is no {name} here\n").as_bytes()).unwrap();
    }
    there
}

/// A service, for as long as a test asks it.
struct Service {
    home: Home,
    running: Running,
}

impl Service {
    /// None, if there is not what its client needs: the shell command fails.
    fn start(name: &str, needed: &str) -> Option<Self> {
        let home = Home::new();
        if !is_there(&home, name, needed) {
            return None;
        }
        let running = home.task(["serve"]).starts(Stdio::piped());
        running.hears(" ready in ");
        Some(Service { home, running })
    }

    fn socket(&self) -> PathBuf {
        self.home.path("runtime/task/rpc.sock")
    }

    /// A program of its own, asked about these words.
    fn client(&self, program: &str, words: &[&str]) -> Invocation {
        let client = self.home.run(program, [self.socket()]);
        client.with(|client| client.args(words))
    }

    /// A script of the examples.
    fn script(&self, interpreter: &str, script: &str, words: &[&str]) -> Ended {
        let client = self.home.run(interpreter, [Path::new(EXAMPLES).join(script), self.socket()]);
        client.with(|client| client.args(words)).ends_beside_others()
    }

    fn stops(self) {
        kill_process(self.running.pid(), Signal::TERM).unwrap();
        let ended = self.running.ends();
        assert!(ended.status.success(), "{ended}");
    }
}

/// The reply with this id, in what a client has printed: one a line, or a list of them.
fn reply(ended: &Ended, id: &str) -> Value {
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended}");
    let replies = ended.stdout.lines().flat_map(|line| match serde_json::from_str(line) {
        Ok(Value::Array(replies)) => replies,
        Ok(reply) => vec![reply],
        Err(error) => panic!("{error}: {ended}"),
    });
    let mut replies = replies.filter(|reply| reply["id"] == id);
    let (Some(reply), None) = (replies.next(), replies.next()) else { panic!("not one {id}: {ended}") };
    reply
}

fn replies_of_the_sample(ended: &Ended) {
    assert_eq!(reply(ended, "mean")["result"]["value"], json!(4.25), "{ended}");
    assert_eq!(reply(ended, "median")["result"]["value"], json!(3.5), "{ended}");
    assert_eq!(reply(ended, "mode")["result"]["values"], json!([1, 5]), "{ended}");
}

#[test]
fn python_with_its_standard_library_hands_over_a_file() {
    let needed = "python3 -c 'import socket; socket.send_fds'";
    let Some(service) = Service::start("Python 3.9", needed) else { return };
    let ask = |content: &str| {
        let file = service.home.file("numbers.txt", content);
        service.script("python3", "python/stats.py", &[file.to_str().unwrap()])
    };
    ask("1 5 3 1\n13 5 2 4\n").answers("mean    4.25\nmedian  3.5\nmode    1 5\n");
    let ended = ask("1 5\nabc\n");
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended}");
    assert!(ended.stderr.starts_with("stats.py: \"abc\" is not a number; "), "{ended}");
    assert!(ended.stderr.contains("'kind': 'not_a_number'") && ended.stderr.contains("'line': 2"), "{ended}");
    let ended = service.script("python3", "python/stats.py", &["/nowhere"]);
    ended.fails(1, "stats.py: [Errno 2] No such file or directory: '/nowhere'");
    service.stops();
}

#[test]
fn numpy_hands_over_an_array() {
    // The first Python of the path need not be the one that Debian's numpy is for.
    let python = |python: &str| format!("{python} -c 'import numpy'");
    let pythons = ["python3", "/usr/bin/python3"];
    let needed = pythons.map(python).join(" || ");
    let Some(service) = Service::start("numpy", &needed) else { return };
    let has_it =
        |name: &&str| service.home.run("sh", ["-c", &python(name)]).ends_beside_others().status.success();
    let python = pythons.into_iter().find(has_it).unwrap();
    service.script(python, "numpy/mean_array.py", &NUMBERS).answers("mean 4.25 of 8 numbers, 0 missing\n");
    service
        .script(python, "numpy/mean_array.py", &["0.1", "nan", "inf"])
        .answers("mean inf of 2 numbers, 1 missing\n");
    service.script(python, "numpy/mean_array.py", &[]).fails(1, &format!("mean_array.py: {EMPTY}"));
    service.stops();
}

/// Saves an array of each type in each order, and prints the files with what Python makes of each.
const SAVES: &str = r#"
import fractions, itertools, numpy, random, statistics
for order, kind in itertools.product("<>", "f8 f4 i8 i4 i2 i1 u8 u4 u2 u1".split()):
    if kind[0] == "f":
        values = [random.uniform(-9, 9) * 10.0 ** random.randint(-9, 9) for _ in range(5001)]
    else:
        # An unsigned integer of 64 bits has one for its sign here.
        info = numpy.iinfo(kind)
        values = [random.randint(int(info.min), min(int(info.max), 2**63 - 1)) for _ in range(5001)]
    for version in [(1, 0), (2, 0), (3, 0)]:
        name = "%s%s-%d.npy" % ("le" if order == "<" else "be", kind, version[0])
        array = numpy.array(values, dtype=order + kind)
        with open(name, "wb") as file:
            numpy.lib.format.write_array(file, array, version)
        exact = [fractions.Fraction(value) for value in array.tolist()]
        mean, median = float(sum(exact) / len(exact)), float(statistics.median(exact))
        print(name, repr(mean), repr(median))
numpy.save("matrix.npy", numpy.zeros((3, 4)))
numpy.save("scalar.npy", numpy.float64(1))
numpy.save("complex.npy", numpy.zeros(3, "c16"))
numpy.save("record.npy", numpy.zeros(3, [("a", "<i4"), ("b", "<f8")]))
"#;

#[test]
fn files_that_numpy_saves_are_read() {
    let home = Home::new();
    let save = |python: &str| home.run(python, ["-c", SAVES]).ends();
    if !is_there(&home, "numpy", "/usr/bin/python3 -c 'import numpy' || python3 -c 'import numpy'") {
        return;
    }
    let here = home.run("/usr/bin/python3", ["-c", "import numpy"]).ends().status.success();
    let saved = save(if here { "/usr/bin/python3" } else { "python3" });
    assert!(saved.status.success() && saved.stdout.lines().count() == 60, "{saved}");
    let float = |text: &str| text.trim().parse::<f64>().unwrap().to_bits();
    for line in saved.stdout.lines() {
        let [name, mean, median] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let answer = home.task(["--json", "--format", "npy", name]).ends().json();
        let (count, value) = (&answer["count"], |value: &Value| value.as_f64().unwrap().to_bits());
        assert_eq!((count, value(&answer["mean"])), (&json!(5001), float(mean)), "{name}");
        assert_eq!(value(&answer["median"]["value"]), float(median), "{name}");
    }
    for (name, part) in [
        ("matrix", "shape (3, 4), and one dimension is read"),
        ("scalar", "shape (), and one dimension is read"),
        ("complex", "dtype \"<c16\", which is not read"),
        ("record", "no plain dtype"),
    ] {
        let ended = home.task(["--format", "npy", &format!("{name}.npy")]).ends();
        assert!(ended.status.code() == Some(1) && ended.stderr.contains(part), "{ended}");
    }
}

#[test]
fn node_calls_three_methods_at_once() {
    let Some(service) = Service::start("Node", "node --version") else { return };
    let ask = |words: &[&str]| service.script("node", "node/stats.mjs", words);
    ask(&NUMBERS).answers("mean    4.25\nmedian  3.5\nmode    1, 5\n");
    ask(&[]).fails(1, &format!("stats.mjs: empty_input: {EMPTY}"));
    let ended = ask(&["1", "abc"]);
    assert!(ended.stderr.starts_with("stats.mjs: missing_value: "), "{ended}");
    service
        .home
        .run("node", [Path::new(EXAMPLES).join("node/stats.mjs"), "nowhere".into()])
        .ends_beside_others()
        .fails(1, "stats.mjs: ENOENT: connect ENOENT nowhere");
    service.stops();
}

#[test]
fn go_calls_by_its_standard_librarys_client() {
    let Some(service) = Service::start("Go", "go version") else { return };
    let program = service.home.path("stats");
    let build = service.home.run("go", ["build", "-o", program.to_str().unwrap(), "."]).with(|go| {
        // Nothing but what the installation has, and nothing that is left.
        go.envs([("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=mod -buildvcs=false")]);
        go.env("GOCACHE", service.home.path("go-cache")).env("GOPATH", service.home.path("go-path"));
        go.current_dir(Path::new(EXAMPLES).join("go"))
    });
    build.ends_beside_others().answers("");
    let ask = |words: &[&str]| service.client(program.to_str().unwrap(), words).ends_beside_others();
    ask(&NUMBERS).answers("mean    4.25\nmedian  3.5\nmode    [1 5]\n");
    ask(&[]).fails(1, &format!("stats: empty_input: {EMPTY}"));
    service.stops();
}

#[test]
fn netcat_sends_lines() {
    let Some(service) = Service::start("OpenBSD netcat", "nc -h 2>&1 | grep -q -- '-N'") else { return };
    replies_of_the_sample(&service.script("sh", "shell/nc.sh", &NUMBERS));
    let empty = service.script("sh", "shell/nc.sh", &[]);
    for id in ["mean", "median", "mode"] {
        let error = &reply(&empty, id)["error"];
        assert_eq!(
            (&error["message"], &error["data"]["kind"]),
            (&json!(EMPTY), &json!("empty_input")),
            "{empty}"
        );
    }
    service.stops();
}

#[test]
fn socat_sends_a_batch() {
    let Some(service) = Service::start("socat", "socat -V") else { return };
    let script = Path::new(EXAMPLES).join("shell/socat.sh");
    let ask = |input: &str| {
        let client = service.home.run("sh", [script.clone(), service.socket()]);
        client.stdin(input).ends_beside_others()
    };
    replies_of_the_sample(&ask("1 5 3 1\n13 5 2 4\n"));
    let wrong = ask("1 1e400\n");
    let error = &reply(&wrong, "mean")["error"];
    assert_eq!(
        (&error["data"]["kind"], &error["data"]["column"]),
        (&json!("out_of_range"), &json!(2)),
        "{wrong}"
    );
    service.stops();
}

#[test]
fn rust_calls_by_tarpc() {
    let service = Service::start("Rust", "true").unwrap();
    let program = Path::new(TASK).with_file_name("examples/call");
    let ask = |words: &[&str]| service.client(program.to_str().unwrap(), words).ends_beside_others();
    ask(&NUMBERS).answers("mean    4.25\nmedian  3.5\nmode    1, 5\n");
    let empty = ask(&[]);
    assert!(empty.stderr.contains(EMPTY) && empty.status.code() == Some(1), "{empty}");
    service.stops();
}

#[test]
fn every_example_is_short() {
    let mut seen = 0;
    for directory in fs::read_dir(EXAMPLES).unwrap() {
        for file in fs::read_dir(directory.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 40, "{}: {lines} lines", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen} examples");
}

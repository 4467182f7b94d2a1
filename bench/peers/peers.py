"""`make bench-peers`: mean, median and mode by this project and by its peers, of the same files, side by side.

Whole processes, from start to exit, in interleaved rounds: what disturbs one round disturbs everybody in it. A peer that
is not there, fails or takes too long has that in its row, and the rest goes on. Variables:

  ROWS    values of a text file; a binary one has ten times as many (10000000)
  ROUNDS  timed rounds, after one that warms up and is watched for memory (5)
  FILES   some of the files, by name (all)
  LIMIT   seconds for one run (120)

The environment of the peers is made in target/peers, the files in target/bench-data."""

import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).absolute().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target"
PYTHON = TARGET / "peers/bin/python"
TASK = ROOT / "bin/task"

ROWS = int(os.environ.get("ROWS", 10_000_000))
ROUNDS = int(os.environ.get("ROUNDS", 5))
LIMIT = float(os.environ.get("LIMIT", 120))
DATA = TARGET / "bench-data" / str(ROWS)

Column = namedtuple("Column", "file kind what")
Run = namedtuple("Run", "seconds peak output failure")

COLUMNS = [
    Column("one.txt", "int", "one integer: what starting costs"),
    Column("ints.txt", "int", f"{ROWS:,} integers below 1000"),
    Column("floats.txt", "float", f"{ROWS:,} floats of 17 digits"),
    Column("zipf.txt", "int", f"{ROWS:,} integers by Zipf's law"),
    Column("unique.txt", "int", f"{ROWS:,} integers, all different"),
    Column("normal.f64", "f64", f"{10 * ROWS:,} floats, binary"),
    Column("normal.npy", "npy", f"{10 * ROWS:,} floats, npy"),
]

# Where arithmetic goes wrong: the exact answers are known without any program.
TRAPS = [
    ("mean", ["1e16", "1", "-1e16"], "0.3333333333333333"),
    ("mean", ["1e25", "1", "-1e25"], "0.3333333333333333"),
    ("mean", ["1e308", "1e308", "-1e308"], "3.333333333333333e+307"),
    ("mean", ["9223372036854775807", "3", "-9223372036854775808"], "0.6666666666666666"),
    ("median", ["1e308", "1.5e308"], "1.25e+308"),
]


def main():
    programs = installed()
    if not loudly([PYTHON, HERE / "columns.py", DATA, str(ROWS)]):
        sys.exit("peers.py: the files could not be made, which takes numpy")
    print(f"\n{machine()}\n")
    print("| file | program | time | × task | peak memory | compared with task's answers |")
    print("|---|---|--:|--:|--:|---|")
    chosen = os.environ.get("FILES", "").replace(",", " ").split()
    for column in COLUMNS:
        if not chosen or column.file in chosen:
            for row in measured(column, programs):
                print(row, flush=True)
    print(f"\nMedian of {ROUNDS} interleaved rounds; files in the page cache.")
    print("Memory: the peaks of all processes of a run, added.\n")
    pipes([column for column in COLUMNS if column.kind != "npy" and (not chosen or column.file in chosen)])
    traps(programs)


def installed():
    """Each program that can be had, with how to call it on a file; says aloud what is missing."""
    if not shutil.which("datamash"):
        loudly(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "datamash"])
    pins = HERE / "requirements.txt"
    stamp = TARGET / "peers/requirements.txt"
    if not stamp.exists() or stamp.read_bytes() != pins.read_bytes():
        loudly([sys.executable, "-m", "venv", TARGET / "peers"]) and loudly(
            [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", pins]
        ) and shutil.copy(pins, stamp)

    def by_script(name, kinds):
        script = HERE / "programs" / f"by_{name}.py"
        return lambda path, kind: [PYTHON, "-B", script, path, kind] if kind in kinds else None

    programs = {
        "task": task,
        "numpy": by_script("numpy", {"int", "float", "f64", "npy"}),
        "scipy": by_script("scipy", {"int", "float", "f64", "npy"}),
        "polars": by_script("polars", {"int", "float", "f64"}),
        "duckdb": by_script("duckdb", {"int", "float", "f64"}),
        "datamash": datamash,
    }
    if not shutil.which("datamash"):
        skipped("datamash", "it is not installed")
        del programs["datamash"]
    return programs


def task(path, kind):
    form = kind if kind in ("f64", "npy") else "text"
    return [TASK, "--json", "--format", form, path]


def datamash(path, kind):
    # It reads standard input alone. All digits of a double: by default it prints 14.
    words = f"exec datamash --format %.17g mean 1 median 1 mode 1 < '{path}'"
    return ["sh", "-c", words] if kind in ("int", "float") else None


def measured(column, programs):
    """The rows of one file."""
    commands = {name: command(DATA / column.file, column.kind) for name, command in programs.items()}
    commands = {name: command for name, command in commands.items() if command}
    first = {name: run(command, watch=True) for name, command in commands.items()}
    times = {name: [] for name in commands}
    failures = {name: run.failure for name, run in first.items() if run.failure}
    for turn in range(ROUNDS):
        # Everybody comes after everybody else.
        names = list(commands)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name not in failures:
                one = run(commands[name])
                times[name].append(one.seconds)
                if one.failure:
                    failures[name] = one.failure
    ours = None if "task" in failures else times.get("task")
    told = answer(first["task"].output) if ours else None
    rows = []
    for number, (name, command) in enumerate(commands.items()):
        what = column.what if number == 0 else ""
        if name in failures:
            rows.append(f"| {what} | {name} | {failures[name]} | | | |")
            continue
        median = statistics.median(times[name])
        ratio = f"{median / statistics.median(ours):.1f}" if ours else ""
        # What ends within a millisecond or two is not seen.
        memory = f"{first[name].peak / 2**20:.0f} MiB" if first[name].peak >= 2**20 else ""
        verdict = "" if name == "task" else compared(answer(first[name].output), told)
        rows.append(f"| {what} | {name} | {median:.3f} s | {ratio} | {memory} | {verdict} |")
    return rows


def pipes(columns):
    """A table of a file by its name and through a pipe. Ten times in one shell each: its own start is not of interest."""
    print("| file | by its name | `cat FILE \\| task` | × |\n|---|--:|--:|--:|")
    for column in columns:
        path = DATA / column.file
        *words, _ = (f"'{word}'" for word in task(path, column.kind))
        times = {f"{' '.join(words)} '{path}'": [], f"cat '{path}' | {' '.join(words)}": []}
        for turn in range(3 * ROUNDS):
            for command in sorted(times, reverse=turn % 2 == 0):
                one = run(["sh", "-ec", f"for _ in 1 2 3 4 5 6 7 8 9 10; do {command}; done"])
                times[command].append(math.nan if one.failure else one.seconds / 10)
        if any(map(math.isnan, sum(times.values(), []))):
            print(f"| {column.what} | failed | | |", flush=True)
            continue
        file, pipe = map(statistics.median, times.values())
        print(f"| {column.what} | {file:.4f} s | {pipe:.4f} s | {pipe / file:.2f} |", flush=True)
    print(f"\nMedians of {3 * ROUNDS} interleaved rounds of ten.\n")


def run(command, watch=False):
    """Runs a command to its end, at most LIMIT seconds."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=TARGET,
                start_new_session=True,
            )
        except OSError as error:
            print(f"peers.py: {words[0]}: {error}", file=sys.stderr)
            return Run(0, 0, "", "failed")
        late = threading.Event()
        guard = threading.Timer(LIMIT, lambda: (late.set(), os.killpg(child.pid, signal.SIGKILL)))
        guard.start()
        peaks = {}
        if watch:
            while child.poll() is None:
                peaks.update(memory(child.pid))
                time.sleep(0.001)
        status = child.wait()
        seconds = time.perf_counter() - began
        guard.cancel()
        output.seek(0)
        errors.seek(0)
        text = output.read().decode(errors="replace")
        if late.is_set():
            return Run(seconds, 0, text, f"> {LIMIT:g} s")
        if status:
            why = (errors.read().decode(errors="replace").strip().splitlines() or ["no word"])[-1]
            end = f"signal {-status}" if status < 0 else f"status {status}"
            print(f"peers.py: {' '.join(words)}: {end}: {why}", file=sys.stderr)
            return Run(seconds, 0, text, "failed" if status > 0 else f"died of {end}")
        return Run(seconds, sum(peaks.values()), text, None)


def memory(pid):
    """The peak of a process and of each of its children, in bytes.

    Not `ru_maxrss`: it knows the largest process alone, and begins with the memory of whoever forked."""
    found = {}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                found[pid] = int(line.split()[1]) * 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= memory(int(child))
        # Any thread of a program may start another.
        for thread in os.listdir(f"/proc/{pid}/task"):
            if int(thread) != pid:
                for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                    found |= memory(int(child))
    except (OSError, ValueError):
        pass
    return found


def answer(output):
    """Mean, median, some modes and how many there are (None where a program names one), whoever said it."""
    try:
        said = json.loads(output)
    except ValueError:
        mean, median, mode = (float(field) for field in output.split())
        return {"mean": mean, "median": median, "modes": [mode], "total": None}
    if "count" in said:
        median, mode = said["median"]["value"], said["mode"]
        return {"mean": said["mean"], "median": median, "modes": mode["values"], "total": mode["total"]}
    return {"total": None} | said


def compared(theirs, ours):
    """In what a peer's answers differ from ours, which are exact."""
    if ours is None:
        return ""
    differences = []
    for name in ("mean", "median"):
        if theirs[name] != ours[name]:
            differences.append(f"{name} off by {distance(theirs[name], ours[name])}")
    named = len(theirs["modes"]) if theirs["total"] is None else theirs["total"]
    if ours["total"] == 0:
        differences.append("one value as the mode, of none" if named == 1 else "every value as a mode, of none")
    elif not set(theirs["modes"]) <= set(ours["modes"]) and ours["total"] <= 1000:
        differences.append("another mode")
    elif named != ours["total"]:
        differences.append(f"{named} of {ours['total']} modes")
    return "; ".join(differences) or "the same"


def distance(theirs, ours):
    """Two floats apart, in units of the last place of ours."""
    places = abs(theirs - ours) / math.ulp(ours)
    return f"{places:.0f} ulp" if places < 1e6 else f"a factor: {theirs!r}"


def traps(programs):
    """A table of sequences on which floating point goes wrong."""
    print(f"| numbers | exact | {' | '.join(programs)} |")
    print("|---|---|" + "---|" * len(programs))
    for statistic, numbers, exact in TRAPS:
        kind = "int" if all(number.lstrip("-").isdigit() for number in numbers) else "float"
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(numbers) + "\n")
            file.flush()
            cells = []
            for command in programs.values():
                one = run(command(file.name, kind))
                value = one.failure or str(answer(one.output)[statistic])
                right = one.failure is None and float(value) == float(exact)
                cells.append(value if right else f"**{value}**")
        print(f"| {statistic} of {', '.join(numbers)} | {exact} | {' | '.join(cells)} |")


def machine():
    """What was measured, on what."""
    processor = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    pins = [line.strip().replace("==", " ") for line in open(HERE / "requirements.txt") if "==" in line]
    others = [first_line([TASK, "--version"]), first_line(["datamash", "--version"])]
    return (
        f"{processor}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Linux {platform.release()}; "
        f"Python {platform.python_version()}, {', '.join(pins)}; {', '.join(others)}"
    )


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, IndexError):
        return f"no {Path(command[0]).name}"


def loudly(command):
    words = " ".join(str(word) for word in command)
    print(f"peers.py: {words}", file=sys.stderr)
    try:
        return subprocess.run(command, stdout=sys.stderr).returncode == 0
    except OSError as error:
        print(f"peers.py: {error}", file=sys.stderr)
        return False


def skipped(what, why):
    print(f"peers.py: SKIPPED {what}: {why}", file=sys.stderr)


if __name__ == "__main__":
    main()

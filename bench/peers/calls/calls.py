"""`make bench-peers`, second half: one call of this service beside the same call of tarpc, tonic and Go's net/rpc.

All ask for the mean of eight numbers over a Unix socket, on one warm connection, in interleaved rounds. Every server
and every client is pinned to one and the same processor: where the kernel places two processes decides more than what
they do. Then 256 MiB in a sealed memfd, on all processors. A peer that is not there or fails is left out aloud. Variables:

  ROUNDS  (25)
  CALLS   a round of single calls (5000)
  FLIGHT  calls a round, 64 in flight (50000)"""

import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).absolute().parent
ROOT = HERE.parent.parent.parent
TARGET = ROOT / "target/calls"
CALLS_BIN = TARGET / "release/calls"
GO_BIN = TARGET / "go"
PROCESSOR = max(os.sched_getaffinity(0))

ROUNDS = int(os.environ.get("ROUNDS", 25))
CALLS = int(os.environ.get("CALLS", 5000))
FLIGHT = int(os.environ.get("FLIGHT", 50_000))
# Seconds for a program to start, or to do what a round asks of it.
PATIENCE = 120

RAW, MESSAGEPACK, BINCODE, GRPC, GO = "raw tokio", "tarpc, MessagePack", "tarpc, bincode", "tonic", "Go net/rpc"
ALONE, SERVED = "task-rpc", "task serve"


class Failed(Exception):
    """A program is not there, or does not do what it should."""


class Running:
    """A program that is pinned and killed at the end."""

    def __init__(self, command, pinned=True):
        words = ["taskset", "--cpu-list", str(PROCESSOR)] if pinned else []
        words += [str(word) for word in command]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.name = " ".join(words)

    def line(self):
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            raise Failed(f"{self.name}: nothing for {PATIENCE} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name}: it ended with {self.process.wait()}")
        return line.strip()

    def ask(self, words):
        try:
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(f"{self.name}: {error}") from error
        return self.line()

    def serves(self, socket):
        for _ in range(1000):
            if socket.is_socket():
                return
            if self.process.poll() is not None:
                raise Failed(f"{self.name}: it ended with {self.process.returncode}")
            time.sleep(0.01)
        raise Failed(f"{self.name}: it does not serve")

    def end(self):
        # Ours removes its socket and its worker.
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main():
    if not build(["cargo", "build", "--release", "--locked", "--target-dir", TARGET], HERE):
        sys.exit("calls.py: the clients could not be built")
    if not shutil.which("go"):
        build(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "golang-go"], HERE)
    build(["go", "build", "-o", GO_BIN, "."], HERE / "go")
    with tempfile.TemporaryDirectory(prefix="task-calls-") as home:
        calls(Path(home))
        handover(Path(home))
    print("\nFrom `kill -9` of the worker to the next answer: `make faults ROW=killed-worker`.")


def build(command, where):
    words = " ".join(str(word) for word in command)
    print(f"calls.py: {words}", file=sys.stderr)
    try:
        return subprocess.run(command, cwd=where, stdout=sys.stderr).returncode == 0
    except OSError as error:
        print(f"calls.py: {error}", file=sys.stderr)
        return False


def servers(home):
    """Each program: how to start its server, its socket, how to start a client."""

    def ours(kind):
        socket = home / f"{kind}.sock"
        return [CALLS_BIN, "server", kind, socket], socket, [CALLS_BIN, "client", kind, socket]

    alone, served, go = home / "alone.sock", home / "served", home / "go.sock"
    serve = [ROOT / "bin/task", "serve", "--runtime-dir", served]
    return {
        RAW: ours("raw"),
        ALONE: ([ROOT / "bin/task-rpc", "--socket", alone], alone, [CALLS_BIN, "client", "ours", alone]),
        SERVED: (serve, served / "rpc.sock", [CALLS_BIN, "client", "ours", served / "rpc.sock"]),
        MESSAGEPACK: ours("messagepack"),
        BINCODE: ours("bincode"),
        GRPC: ours("grpc"),
        GO: ([GO_BIN, "server", go], go, [GO_BIN, "client", go]),
    }


def calls(home):
    """All programs by turns, each time with processes of their own: two of them keep for as long as they live the luck
    that they had with the scheduler, which is a tenth of a call."""
    programs = servers(home)
    said = {name: [] for name in programs}
    for turn in range(ROUNDS):
        names = list(programs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name in said:
                try:
                    said[name].append(round_of(name, *programs[name]))
                except (OSError, Failed) as error:
                    print(f"calls.py: LEFT OUT {name}: {error}", file=sys.stderr)
                    del said[name]
    median = {name: [statistics.median(column) for column in zip(*lines)] for name, lines in said.items()}
    table({name: row[:2] for name, row in median.items()}, {name: row[2:] for name, row in median.items()})


def round_of(name, server, socket, client):
    """What the client says in one round: median and 99th percentile of a call, and the calls a second of many."""
    socket.unlink(missing_ok=True)
    running = []
    try:
        running.append(Running(server))
        running[-1].serves(socket)
        running.append(Running(client))
        running[-1].line()
        requests = [f"latency {CALLS}"] + ([f"flight {FLIGHT}"] if name != RAW else [])
        return [int(word) for request in requests for word in running[-1].ask(request).split()]
    finally:
        for program in reversed(running):
            program.end()


def table(single, flight):
    def ratio(value, base):
        return f"{value[0] / base[0]:.2f}" if value and base else ""

    print(f"\nOne call, mean of 8 numbers; server and client pinned to processor {PROCESSOR}; {go_version()}.\n")
    print("| | one call, p50 | p99 | × raw tokio | 64 in flight, calls/s | × Go |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, times in single.items():
        many = flight.get(name)
        rate = f"{many[0]:,.0f}" if many else ""
        print(
            f"| {name} | {times[0] / 1e3:.1f} µs | {times[1] / 1e3:.1f} µs | {ratio(times, single.get(RAW))} "
            f"| {rate} | {ratio(many, flight.get(GO))} |"
        )
    print(f"\nMedians of {ROUNDS} interleaved rounds of {CALLS} and {FLIGHT} calls.\n")


def handover(home):
    socket = home / "memory.sock"
    server = Running([ROOT / "bin/task-rpc", "--socket", socket], pinned=False)
    try:
        server.serves(socket)
        command = [CALLS_BIN, "handover", socket, str(ROUNDS)]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, Failed, subprocess.TimeoutExpired) as error:
        print(f"calls.py: LEFT OUT the memfd: {error}", file=sys.stderr)
        return
    finally:
        server.end()
    if lines.returncode:
        print(f"calls.py: LEFT OUT the memfd: {lines.stderr.strip()}", file=sys.stderr)
        return
    times = [[float(word) for word in line.split()] for line in lines.stdout.splitlines()]
    in_place = statistics.median(line[0] for line in times)
    attached = statistics.median(line[1] for line in times)
    mapped = statistics.median(statistics.median(line[2:]) for line in times)
    print("| mean of 256 MiB of floats in a sealed memfd | time | GB/s | speed × in place |")
    print("|---|--:|--:|--:|")
    for what, time_ in (
        ("plain sum in place, all processors", in_place),
        ("task-rpc, mapped by an earlier call", mapped),
        ("task-rpc, attached by this call", attached),
    ):
        print(f"| {what} | {time_:.1f} ms | {0.268435456 / time_ * 1e3:.1f} | {in_place / time_:.2f} |")


def go_version():
    try:
        return subprocess.run(["go", "version"], capture_output=True, text=True).stdout.strip()
    except OSError:
        return "no go"


if __name__ == "__main__":
    main()

//! What `--help` and the manual say beside the flags. Paragraphs are parted by an empty line; one whose first line ends
//! with a colon has that for a heading, which the manual makes a section of. No line is longer than 73 bytes: the
//! manual puts seven columns before it.

use task_proto::limits::Limits;

/// What the program is.
pub const ABOUT: &str = "\
Mean, median and mode of numbers, exactly: of any size, in any order, the
same on every machine.

task starts a worker, task-rpc, hands it the numbers, prints its answer
and removes it again. With --only it prints one bare value, with --json
one document.";

/// Of the INPUT words. The manual puts another seven columns before these.
pub const INPUT: &str = "\
Numbers, files, or '-' for standard input; all of them are one sequence.

  task 1 2 2 3      numbers; also 1,2,2,3 or \"1 2 2 3\", -5, -inf
  task a.txt b.txt  files: numbers between white space or commas
  task 7 a.txt -    all three together
  seq 1 100 | task  standard input, to its end
  task              on a terminal: an answer a line until Ctrl-D
  task ./5          a file named 5

--format is that of all files and of standard input; words that
are numbers stay numbers. f64 and i64 are little-endian values
of eight bytes, npy is an array of one dimension as NumPy saves
it.";

/// Of `task` itself.
pub const TASK: &str = "\
Exit status:
  0    answered
  1    the data or the call is at fault, or there is no answer
  2    the command line is at fault
  3    no service is running (call, status, restart, stop)
  124  no answer within --timeout
  SIGINT, SIGTERM, SIGHUP and SIGQUIT end it after it has cleaned up;
  SIGPIPE ends it when standard output is closed.

Environment:
  TASK_*           each flag has a twin that it beats: TASK_JSON=1,
                   TASK_TIMEOUT=2s, TASK_RPC_BIN=/opt/task-rpc and so on
  NO_COLOR         no colour
  XDG_RUNTIME_DIR  where the runtime directory is (task/ in it)
  XDG_STATE_HOME   where the log is; ~/.local/state otherwise

Files:
  task-rpc beside task, or --rpc-bin
      the worker
  $XDG_RUNTIME_DIR/task or /tmp/task-UID
      the worker's socket, while it runs
  $XDG_STATE_HOME/task/log
      what happened: runs.jsonl, serve.jsonl";

/// Of `task serve`, above the table of limits.
const SERVE: &str = "\
Clients:
  The socket speaks JSON-RPC 2.0, one message a line, and tarpc, as
  PROTOCOL.md has it.

  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}' |
    nc -NU $XDG_RUNTIME_DIR/task/rpc.sock

Signals:
  SIGINT, SIGTERM  answer what was sent, for at most 10 s, then end with
                   status 0; a second one ends it at once, with status 0
  SIGHUP           replace the worker by a new one, and lose no call;
                   when its terminal is gone, end as by SIGTERM
  SIGQUIT          end at once, by that signal

Exit status:
  0  stopped as asked
  1  it could not start, or gave up after failed starts
  2  the command line is at fault

Files, in --runtime-dir, $XDG_RUNTIME_DIR/task or /tmp/task-UID:
  rpc.sock      the service; a socket that systemd hands over replaces it
  control.sock  for task status, restart and stop
  lock          held while it runs, with its process id

Limits:
  --limit drain=30s --limit in_flight=8,connections=16
  TASK_LIMIT=drain=20s,frame=2M
  An option beats the variable for what it names, and for nothing else.
";

/// Of `task serve`.
pub fn serve() -> String {
    format!("{SERVE}\n{}", Limits::default().help())
}

/// Of `task call`.
pub const CALL: &str = "\
The input and the output are those of task --only METHOD; with --json the
answer is the service's reply: value, count, missing, warnings and so on.

  task call median sales.txt
  seq 1 100 | task call mean
  task call ping              is it there?

-v shows the id of the call: task logs --trace ID finds it on both sides.

Without an answer:
  never sent       the call was not executed: ask again
  outcome unknown  it may have been executed, or may yet be
  The error says which; with --json its member \"outcome\" is \"never_sent\"
  or \"unknown\". What a worker that dies was asked is asked again without
  a word, unless its input was a pipe that it had begun to read.

Exit status:
  0    answered
  1    the data or the call is at fault, or there is no answer
  2    the command line is at fault
  3    no service is running: start one with task serve
  124  no answer within --timeout
  SIGINT, SIGTERM, SIGHUP and SIGQUIT end it by that signal; SIGPIPE ends
  it when standard output is closed.";

/// Of `task status`.
pub const STATUS: &str = "\
What it shows, and with --json:
  state        starting, serving, reloading (its successor is starting),
               waiting (a start has failed) or stopping; pid, uptime_s
  socket       where it can be called
  worker       child: the process that answers, its generation, the
               version of its build
  draining     workers that were replaced and still answer
  sandbox      full, partial (the kernel cannot do all of it) or none
  calls        total, failed (with requests that were refused, as they
               made no sense) and in_flight, over all its workers
  latency      calls.p50_us and calls.p99_us: half of the calls, and 99
               of 100, took no longer
  connections  open, limit, and total: how many the worker has accepted
  memory       memory_bytes: without the worker's, child.memory_bytes
  restarts     how many workers followed the first; last_restart
  limits       what task serve --limit sets, in bytes and seconds

Exit status:
  0  it has answered, however it stands
  1  it does not answer, or belongs to another user
  2  the command line is at fault
  3  no service is running";

/// Of `task restart`.
pub const RESTART: &str = "\
It returns when a new worker serves, and prints its generation, as JSON
{\"generation\":2}. The old one answers what it was asked, and ends. If
the new one does not start, the old one goes on, and the error shows the
last words of the new one.

Exit status:
  0  a new worker serves
  1  it does not, or nobody knows: \"outcome unknown\"
  2  the command line is at fault
  3  no service is running";

/// Of `task stop`.
pub const STOP: &str = "\
It returns when the service's process is gone, and prints nothing. What
was sent to the service by then is answered first, for at most 10 s.

Exit status:
  0  the service has ended
  1  it has not, or nobody knows: \"outcome unknown\"
  2  the command line is at fault
  3  no service is running";

/// Of `task logs`.
pub const LOGS: &str = "\
  task logs                what happened lately
  task logs -f             and what happens now
  task logs --level warn   what went wrong
  task logs --level debug  every call of task serve -v, too
  task logs --run 9f3c     one run, by the beginning of its name

The service has a line at info for a call that failed, took over a second
or is traced (task call -v), and a summary of each minute; for each call
at debug, if it runs as task serve -v.

Exit status:
  0  shown, be it nothing
  1  the log cannot be read
  2  the command line is at fault
  SIGINT ends --follow; SIGPIPE when nobody reads any more.";

/// Of `task completions`.
pub const COMPLETIONS: &str = "\
  task completions bash > ~/.local/share/bash-completion/completions/task
  task completions zsh > ~/.zfunc/_task
  task completions fish > ~/.config/fish/completions/task.fish";

#[cfg(test)]
mod tests {
    #[test]
    fn no_line_is_broken_in_the_manual() {
        for text in [
            super::ABOUT,
            super::TASK,
            &super::serve(),
            super::CALL,
            super::STATUS,
            super::RESTART,
            super::STOP,
            super::LOGS,
            super::COMPLETIONS,
        ] {
            assert!(text.lines().all(|line| line.len() <= 73), "{text}");
        }
        assert!(super::INPUT.lines().skip(1).all(|line| line.len() <= 64));
    }
}

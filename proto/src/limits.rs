//! Every limit and every wait, in one place, with its reason.

mod named;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::named::{Amount, Limit};

/// From spawn to `ready`. A worker starts in milliseconds; ten seconds is a machine that swaps.
pub const START: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL: long enough for the calls that were sent before it.
pub const DRAIN: Duration = Duration::from_secs(10);
/// From SIGKILL to the exit of a process: it cannot refuse, so only a kernel in trouble takes longer.
pub const KILL: Duration = Duration::from_secs(5);
/// Between two looks at a worker that has exited but is held by a debugger: there is no event to wait for.
pub const REAP_RETRY: Duration = Duration::from_millis(10);
/// For what is left in the pipes of an exited worker. A grandchild may hold them open for ever.
pub const PIPE_TAIL: Duration = Duration::from_millis(100);
/// Before standard input says that it is being read, so that nobody wonders why nothing happens.
pub const IDLE_STDIN_NOTE: Duration = Duration::from_secs(1);
/// The deadline of a call without one. tarpc's timer wheel panics beyond 2.2 years.
pub const NO_DEADLINE: Duration = Duration::from_hours(365 * 24);
/// For standard error to take a line. A stopped terminal takes none for ever, and the host must go on.
pub const SCREEN: Duration = Duration::from_millis(50);
/// For the lock of a log file: a holder writes once and lets go, so only a stopped one takes longer.
pub const LOG_LOCK: Duration = Duration::from_secs(1);
/// Between two tries for that lock: there is no event to wait for.
pub const LOG_LOCK_RETRY: Duration = Duration::from_millis(5);
/// Between two tries to write a log that could not be written: no event tells that a disk has room again.
pub const LOG_RETRY: Duration = Duration::from_secs(1);
/// For the last records of a service to be written at its end: twice what their file's lock may take.
pub const LOG_FINISH: Duration = Duration::from_secs(2);
/// Before a line tells how much has been read: what ends sooner needs none.
pub const PROGRESS_AFTER: Duration = Duration::from_secs(1);
/// Between two drawings of that line: often enough to look alive.
pub const PROGRESS: Duration = Duration::from_millis(200);
/// From its making until an unlocked, unfinished run directory is swept: a start takes microseconds, an hour is a
/// machine that slept.
pub const UNFINISHED: Duration = Duration::from_hours(1);
/// Between two ticks of a computing call's slot, and so between two looks at its cancellation.
pub const TICK: Duration = Duration::from_millis(100);
/// Between two ticks of a worker's heartbeat: health looks every second, so three ticks may be late.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// A call that takes longer has a line in the log at INFO.
pub const SLOW_CALL: Duration = Duration::from_secs(1);
/// Between two summaries of the calls that a worker answered, for its log.
pub const SUMMARY: Duration = Duration::from_mins(1);
/// For the lock of a socket's directory, which others hold only while they bind.
pub const SOCKET_LOCK: Duration = Duration::from_secs(1);
/// Between two tries for that lock: there is no event to wait for.
pub const SOCKET_LOCK_RETRY: Duration = Duration::from_millis(5);
/// For what a killed service has left to go: its worker, which has the socket open and dies moments after it, and a
/// child between fork and exec, which has the lock.
pub const REMNANTS: Duration = Duration::from_secs(1);
/// For the holder of a service's lock to let go of it that looks alive: one that was just killed does, for moments.
pub const DYING: Duration = Duration::from_millis(200);
/// Between two looks at these: there is no event to wait for.
pub const REMNANTS_RETRY: Duration = Duration::from_millis(5);
/// For a service manager to take what it is told. It reads all the time; one that does not must not hold a service up.
pub const NOTIFY: Duration = Duration::from_millis(100);
/// First wait after `accept` found no free descriptor; it doubles up to [`ACCEPT_BACKOFF_MAX`].
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(5);
/// Longest wait after `accept` found no free descriptor.
pub const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Between two warnings of the same refusal: whoever is refused may come again at once, and the log is for others too.
pub const WARNED: Duration = Duration::from_secs(1);
/// Calls that fail, take long or are traced within [`WARNED`] and have a line each in the log: more than anybody reads, and
/// so few that a flood of them takes half an hour to push everything else out of its files, not half a minute.
pub const NOTABLE: u32 = 50;
/// For room in a full backlog: as long as a worker may take to start.
pub const CONNECT: Duration = START;
/// First wait after `connect` met a full backlog; it doubles up to [`CONNECT_BACKOFF_MAX`].
pub const CONNECT_BACKOFF: Duration = Duration::from_millis(1);
/// Longest wait after `connect` met a full backlog.
pub const CONNECT_BACKOFF_MAX: Duration = Duration::from_millis(100);
/// Between two tries to write to a full socket for which there is no descriptor that would tell of room.
pub const ROOM_RETRY: Duration = Duration::from_millis(10);
/// For a client to take the reason why its connection is about to be closed.
pub const NOTICE: Duration = Duration::from_secs(1);

/// For a message from its first byte to its last, while its client is waited for; see [`FRAME_BYTES_PER_SECOND`].
/// Programs write a message at once: one that does not has stopped, or means to hold a place.
pub const FRAME_TIME: Duration = Duration::from_secs(5);
/// For the first message of a connection while others wait for its place: then it counts as idle.
pub const BEGUN: Duration = Duration::from_millis(250);
/// For each of these bytes that a message has, it may take a second more: a machine that swaps is no attacker.
pub const FRAME_BYTES_PER_SECOND: u64 = 64 * 1024;
/// A timer that is looked at so late says more of this process than of the client that it watches: it runs once more.
pub const TIMER_LATE: Duration = Duration::from_millis(250);
/// For a client to take one more byte of replies that wait for it. A stopped one is continued by then, or never.
pub const UNREAD: Duration = Duration::from_secs(30);

/// Starts that may fail in a row within [`FAILED_STARTS_WITHIN`] before a service gives up.
pub const FAILED_STARTS: u32 = 5;
/// See [`FAILED_STARTS`]; for each more that may fail, as much again.
pub const FAILED_STARTS_WITHIN: Duration = Duration::from_mins(1);
/// A worker that lived so long has not failed to start, even if nobody has called it: whatever keeps one from working
/// shows in its first moments, and one that dies later can be replaced at once without a storm of starts.
pub const STARTED: Duration = Duration::from_secs(5);
/// Before the second start after one that failed; it doubles up to [`RESTART_BACKOFF_MAX`]. The first comes at once.
pub const RESTART_BACKOFF: Duration = Duration::from_millis(200);
/// The longest wait between two starts: a service comes back within half a minute of whatever kept it down.
pub const RESTART_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// For a worker to show no life, before it is killed: as long as [`HEALTH_MISSES`] looks take.
pub const HEALTH: Duration = Duration::from_secs(3);
/// A look that comes so late says more of the host than of the worker: it does not count.
pub const HEALTH_LATE: Duration = Duration::from_millis(500);
/// Calls that an autopsy describes.
pub const AUTOPSY_CALLS: usize = 16;
/// Threads that an autopsy describes: more than a worker has but for its readers.
pub const AUTOPSY_THREADS: usize = 64;
/// Looks in a row at which a worker must show no life before it is killed: one may come at a bad moment.
pub const HEALTH_MISSES: u32 = 3;

/// From the end of a connection to the report of the worker's exit: a dying process closes its sockets before
/// its exit can be waited for.
pub const DEATH_NOTICE: Duration = Duration::from_secs(1);
/// For another host's verdict on a call: it waits [`DEATH_NOTICE`] itself.
pub const VERDICT: Duration = Duration::from_secs(3);

/// Deaths that a call may be executing at before it counts as their cause, when others were executing beside it or
/// somebody sent SIGKILL: the kernel's, when memory is short, look like anybody's.
pub const WEAK_DEATHS: u32 = 5;
/// From this number of SIGKILLs on it takes its turn like other suspects; one or two are somebody's whim.
pub const FOREIGN_KILLS_SUSPECT: u32 = 3;
/// A worker that lived so long without a suspect's call will not get it: clients send a call again at once.
pub const SUSPECT: Duration = Duration::from_secs(10);
/// For the answer to a request for a hand-over: a start, and a predecessor that drains; longer drains go on unwatched.
pub const HAND_OVER: Duration = START.saturating_add(DRAIN);
/// Between two tries to say hello while the system has too many descriptors under way: there is no event to wait for.
pub const HELLO_RETRY: Duration = Duration::from_millis(10);
/// How long a suspect that begins to execute is on trial, and no other call begins: what kills a worker mostly does it
/// at once, and others wait no longer than for a restart.
pub const TRIAL: Duration = Duration::from_millis(250);
/// Deaths of a worker's own making that a call may be executing at, the last time alone or on trial.
pub const OWN_DEATHS: u32 = 2;

/// Reports, orders and signals of one supervisor that may wait. Whoever finds no room waits, and the loop never does.
pub const SUPERVISOR_QUEUE: usize = 8;
/// Post-mortems that a supervisor keeps for callers that have yet to ask.
pub const DEATHS_KEPT: usize = 64;
/// How often a call is sent again: the end of a worker that closes every connection without a reason.
pub const RESENDS: u32 = 100;
/// Before a call is sent for the third time by a client that was turned away twice; it doubles up to
/// [`RESEND_PAUSE_MAX`]. The second time comes at once: a worker that drains turns everybody away.
pub const RESEND_PAUSE: Duration = Duration::from_millis(1);
/// The longest such wait: fifty tries a second cost next to nothing, and room is soon found.
pub const RESEND_PAUSE_MAX: Duration = Duration::from_millis(20);
/// Workers in a row that may turn a client away without a word before it pauses each time: two that drain are a hand-over,
/// more are none.
pub const DRAINS: u32 = 3;
/// A connection that was used within this time is in use: it makes no room for a process that has more of them.
pub const IN_USE: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted while a worker is replaced.
pub const BACKLOG: i32 = 128;
/// A handshake datagram, in bytes.
pub const HANDSHAKE: usize = 64 * 1024;
/// Descriptors in one control message, each way.
pub const DESCRIPTORS_PER_MESSAGE: usize = 16;
/// Attachments that are being closed at once, by threads for that, before no more are received: as many as the default
/// [`Limits`] allow to be alive, so that only file systems that do not answer make them so many.
pub const CLOSING: usize = 1024;
/// Files in memory that are closed without such a thread, in blocks of 512 bytes. Measured: 50 µs for 1 MiB, 70 ms for
/// 1 GiB, if theirs was the last descriptor; a thread takes some 20.
pub const CLOSED_AT_ONCE: i64 = 1024 * 1024 / 512;
/// The stack of such a thread, in bytes: it makes one system call.
pub const CLOSER_STACK: usize = 64 * 1024;
/// The id of a JSON-RPC request, in bytes as written: it is kept while the call is in flight, and sent back.
pub const JSON_ID: usize = 128;
/// What an error that waits to be answered takes beside its text, in bytes, for the count of what is held back.
pub const JSON_ERROR: usize = 512;
/// JSON replies that wait to be written, in bytes, before requests are only kept: one more is made at most, of a frame.
pub const JSON_REPLIES: usize = 8 * 1024;
/// Refused connections whose first bytes are waited for, at most [`BEGUN`]; further ones are closed without a word.
pub const REFUSALS: usize = 8;
/// Of what a connection has sent that is refused, in bytes, to tell in which protocol it is to hear why.
pub const REFUSED: usize = 4 * 1024;
/// One read of a connection, in bytes: some hundred small requests, or a 32nd of the largest.
pub const READ: usize = 32 * 1024;
/// Messages of a connection that are read in a row before others on the same thread have their turn. Measured with 40
/// connections that send without end: half as many of these halve what others wait.
pub const STRETCH: usize = 32;
/// Reads of a connection likewise, as a message may be large: 64 KiB.
pub const STRETCH_READS: usize = 2;
/// What a connection's messages in a row may take, with what is computed for them at once. The last of them may be the
/// longest that is decoded in its turn, which takes as long again.
pub const STRETCH_TIME: Duration = Duration::from_micros(50);
/// A message that is decoded in its turn, in bytes: some fifty microseconds for the densest numbers, and as many such
/// turns may come before another connection's as there are connections. Longer ones are decoded on another thread.
pub const LONG_MESSAGE: usize = 1024;
/// Long messages that are decoded at once, each on a thread of its own and of another process.
pub const DECODING: usize = 8;
/// The path in a socket address, in bytes (`sun_path` without its final zero).
pub const SOCKET_PATH: usize = 107;
/// A token of text, in bytes: the longest exact `f64` has 1,075 significant digits.
pub const TOKEN: usize = 64 * 1024;
/// A token in an error message, in bytes.
pub const TOKEN_SHOWN: usize = 64;
/// Inputs that a worker reads at once, each on a thread of its own; those of one process are half of them at most.
pub const READERS: usize = 256;
/// Processes whose calls compute at once, each on as many threads as there are processors; and as many whose readers do.
/// The kernel shares these out; far more would make every call late, and the slow ones look dead.
pub const COMPUTING: usize = 8;
/// Inputs whose numbers a connection keeps for its later calls; the oldest that no call uses goes first.
pub const INGESTS: usize = 64;
/// Attachments that a connection has mapped at once; further ones are read. All connections together stay far below the
/// 65,530 mappings that Linux gives a process.
pub const MAPPINGS: usize = 64;
/// A thread's stack, in bytes: what Rust's standard library gives one.
pub const STACK: usize = 2 * 1024 * 1024;
/// Memory that one call may take beside its numbers, in bytes: a request of [`INLINE_NUMBERS`] before and after it is
/// parsed, and a reply that lists [`MODES_LISTED`].
pub const CALL_ROOM: usize = 256 * 1024;
/// Memory of a worker for all that no limit counts, in bytes: itself, its log, what its readers have at hand, and what
/// the allocator loses.
pub const WORKER_ROOM: u64 = 256 * 1024 * 1024;
/// What a pipe that is given to `task` is made to hold, and one of the worker's into which much is moved, in bytes: what
/// Linux lets everybody have (`pipe-max-size`). On a virtual machine where waking another processor is slow, `cat FILE | task` takes a quarter less time than with the usual 64 KiB, and
/// where it is fast no more.
pub const PIPE: usize = 1024 * 1024;
/// Bytes of input read at once: what a connection's cancellation waits for at most.
pub const INPUT_BLOCK: usize = 256 * 1024;
/// Modes listed in a reply; all are counted.
pub const MODES_LISTED: usize = 1000;
/// Numbers that our client puts into a request itself, as they fill no frame, and that a worker computes on in the
/// connection's own task: a hop to a thread and back costs 7 µs.
pub const INLINE_NUMBERS: usize = 4096;
/// Sources of one query: at some 30 bytes each they stay under half a frame.
pub const SOURCES: usize = 16 * 1024;
/// What a terminal may feed to `-`, in bytes: its reader holds it in memory.
pub const TYPED: usize = 64 * 1024 * 1024;
/// A line of the prompt, in bytes.
pub const PROMPT_LINE: usize = 1024 * 1024;
/// Calls that the scoreboard shows at once; further ones run without a slot. All that the default [`Limits`] allow:
/// whoever is not shown is neither judged nor blamed.
pub const SLOTS: usize = 8192;
/// Connections that the scoreboard remembers, closed ones too, until their places are needed. Far more than are open at
/// once, so that one that was lost can still be asked about.
pub const CONNECTION_ROWS: usize = 1024;
/// Suspects that a hello names, the freshest: at 35 bytes each they fit its datagram.
pub const SUSPECTS: usize = 1000;
/// Suspects that a line of the log names.
pub const BLAMED_SHOWN: usize = 16;
/// Condemned calls that a hello names, the freshest.
pub const CONDEMNED: usize = 32;
/// Last words of a worker that go with each of them, in bytes.
pub const CONDEMNED_TAIL: usize = 256;
/// A method's name on the scoreboard, in bytes; longer ones are cut.
pub const METHOD: usize = 32;
/// Why a call failed, in its line of the log, in bytes; longer ones are cut.
pub const FAILURE_SHOWN: usize = 256;
/// A line of a worker's output, in bytes; longer ones are kept in parts.
pub const LOG_LINE: usize = 16 * 1024;
/// Records of workers that a run keeps for its log, in bytes; older ones are dropped and counted. A worker that
/// floods costs no more.
pub const JOURNAL_WORKERS: usize = 1024 * 1024;
/// Records of the host itself likewise, kept apart so that a worker's flood does not drown them.
pub const JOURNAL_HOST: usize = 256 * 1024;
/// Last lines of a worker's standard error that are shown when it dies.
pub const STDERR_TAIL_LINES: usize = 20;
/// The same in bytes: each line is cut so that all of them fit.
pub const STDERR_TAIL: usize = 8 * 1024;
/// A log file, in bytes: then it is rotated.
pub const LOG_FILE: u64 = 10 * 1000 * 1000;
/// Log files of one name, the current one included.
pub const LOG_FILES: u32 = 5;
/// A line of a log file, in bytes, for its reader: six times [`LOG_LINE`] when all of it is escaped, and more.
pub const LOG_RECORD: usize = 1024 * 1024;
/// Run directories that one start looks at when it sweeps, so that a start stays quick.
pub const SWEEP: usize = 1024;

/// For a host's answer to a control call: it has it at hand, so one that is silent is stopped or hangs.
pub const CONTROL: Duration = Duration::from_secs(5);
/// Connections of a control socket that are served at once: of all clients whose calls were lost together with their
/// worker, and as many of people and scripts.
pub const CONTROL_CONNECTIONS: usize = 128;
/// Requests for another worker that may wait; the rest of the connections is for those who ask something else.
pub const CONTROL_RESTARTS: usize = 64;
/// Calls in flight on each of them.
pub const CONTROL_IN_FLIGHT: usize = 4;
/// A frame there, in bytes: the largest is the verdict on a call, with a dead worker's last words.
pub const CONTROL_FRAME: usize = 64 * 1024;

/// The limits of a service, as its host sets them; they travel in the handshake. A flag sets each by the name that it has
/// here, see [`Limits::with`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// A frame, in bytes, each way. Large input goes by descriptor.
    pub frame: usize,
    /// Requests held back while all calls of a connection are in flight, in bytes.
    pub held: usize,
    /// Descriptors of one connection that are alive at once.
    pub attachments: usize,
    /// Connections at once.
    pub connections: usize,
    /// Calls in flight at once, on each connection.
    pub in_flight: usize,
    /// Memory for numbers, in bytes, over all calls; `None`: half of the smaller of RAM and the cgroup's limit.
    pub memory: Option<u64>,
    /// How long a call waits for a byte of its input; `None`: for ever.
    pub input_idle: Option<Duration>,
    /// How long a message may take from its first byte to its last.
    pub frame_time: Duration,
    /// How long replies wait for a client that takes none.
    pub unread: Duration,
    /// From spawn to ready.
    pub start: Duration,
    /// From SIGTERM to SIGKILL, at a stop. A worker that hands over has no such limit: its calls have theirs.
    pub drain: Duration,
    /// How long a worker may show no life before it is killed.
    pub health: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame: 1024 * 1024,
            held: 16 * 1024 * 1024,
            attachments: 16,
            connections: 64,
            in_flight: 128,
            memory: None,
            input_idle: Some(Duration::from_secs(30)),
            frame_time: FRAME_TIME,
            unread: UNREAD,
            start: START,
            drain: DRAIN,
            health: HEALTH,
        }
    }
}

//! One worker, from spawn to the last byte of its pipes: handshake, signals, exit, reaping.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};
use task_proto::handshake::{Answer, HandshakeError, Hello, Ready, receive_answer, send_hello};
use task_proto::limits::{HEALTH_LATE, HELLO_RETRY, KILL, REAP_RETRY};
use task_proto::scoreboard::Board;
use task_proto::watched::Watched;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::autopsy;
use super::health::{Health, Sickness};
use super::post_mortem::{ExitCause, PostMortem};
use crate::capture::Capture;
use crate::journal::Journal;
use crate::socket::Socket;
use crate::spawn::WorkerSpec;

/// What a generation tells the supervisor's loop.
pub(super) enum Report {
    /// There is a process.
    Spawned(u32),
    /// It serves, and shows what it does on this board.
    Ready(Ready, Arc<Board>),
    /// Somebody else than us told it to end: it accepts no more.
    Leaving,
    /// It hangs; the autopsy is in the log.
    Sick,
    /// It will not serve us: what it speaks, and why where that is not it.
    Refused([u32; 2], Option<String>),
    /// Its answer made no sense.
    Malformed(HandshakeError),
    /// There is no process, or none that could be watched.
    SpawnFailed(io::Error),
    /// It is gone: process group killed, process reaped, pipes emptied.
    Exited(PostMortem),
}

/// What a generation works with.
pub(super) struct Generation {
    pub(super) spec: Arc<WorkerSpec>,
    pub(super) hello: Hello,
    pub(super) socket: Arc<Socket>,
    pub(super) journal: Journal,
    pub(super) reports: mpsc::Sender<(u64, Report)>,
    /// Signals to send to the worker.
    pub(super) signals: mpsc::Receiver<Signal>,
}

impl Generation {
    /// Runs it to its end. The last report is `SpawnFailed` or `Exited`.
    pub(super) async fn run(mut self) {
        let last = match self.live().await {
            Ok(post_mortem) => Report::Exited(post_mortem),
            Err(error) => Report::SpawnFailed(error),
        };
        self.report(last).await;
    }

    async fn live(&mut self) -> io::Result<PostMortem> {
        let started = Instant::now();
        let generation = self.hello.generation;
        let (lifeline, stdin) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        ioctl_fionbio(&lifeline, true)?;
        let lifeline = Watched::new(lifeline)?;
        let board = Arc::new(Board::create()?);
        let mut worker = Worker::watch(self.spec.spawn(stdin).await?)?;
        let name = self.spec.name();
        self.report(Report::Spawned(worker.pid())).await;
        tracing::info!(pid = worker.pid(), generation, "spawned {name}");
        let (stdout, stderr) = worker.pipes()?;
        let capture = Capture::start(stdout, stderr, &name, worker.pid(), &self.journal);

        self.say_hello(&lifeline, &board).await;
        let (mut listens, mut serves) = (true, false);
        let (mut health, mut sickness) = (Health::new(self.hello.limits.health), None);
        let mut looks = interval_at(tokio::time::Instant::now() + health.interval(), health.interval());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_look = Instant::now();
        loop {
            tokio::select! {
                biased;
                answer = receive(&lifeline), if listens => match answer {
                    Ok(Answer::Ready(said)) if !serves => {
                        serves = true;
                        // Which process it is nobody needs to believe it.
                        let ready = Ready { pid: worker.pid(), ..said };
                        looks.reset();
                        last_look = Instant::now();
                        tracing::info!("ready in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
                        self.report(Report::Ready(ready, Arc::clone(&board))).await;
                    }
                    // Said twice, it is no news.
                    Ok(Answer::Ready(_)) => {}
                    Ok(Answer::Draining) => self.report(Report::Leaving).await,
                    Ok(Answer::Refused { protocol, reason }) => {
                        listens = false;
                        self.report(Report::Refused(protocol, reason)).await;
                    }
                    // It closed its end, which only an exit does: that says more.
                    Err(HandshakeError::Closed | HandshakeError::Io(_)) => listens = false,
                    Err(error) => {
                        listens = false;
                        self.report(Report::Malformed(error)).await;
                    }
                },
                Some(signal) = self.signals.recv() => worker.signal(signal),
                _ = looks.tick(), if serves && sickness.is_none() => {
                    let late = last_look.elapsed() > health.interval() + HEALTH_LATE;
                    last_look = Instant::now();
                    sickness = if late { None } else { board.read().ok().and_then(|seen| health.look(&seen)) };
                    if let Some(sickness) = &sickness {
                        self.autopsy(worker.pid(), sickness, &board, &capture);
                        self.report(Report::Sick).await;
                    }
                }
                exited = worker.pidfd.readable() => {
                    let _ = exited?;
                    break;
                }
            }
        }
        let pid = worker.pid();
        let cause = if let Some(status) = worker.reaped().await? {
            ExitCause::from(status)
        } else {
            tokio::spawn(worker.left_to_its_tracer());
            ExitCause::Unknown
        };
        let captured = capture.finish().await;
        if !captured.closed {
            tracing::warn!(pid, "somebody whom {name} started still holds its output open");
        }
        Ok(PostMortem {
            generation,
            pid,
            cause,
            sickness,
            lived: started.elapsed(),
            stderr_tail: captured.tail,
            pipes_closed: captured.closed,
            scoreboard: board.read().ok(),
        })
    }

    async fn say_hello(&self, lifeline: &Watched, board: &Board) {
        let patience = Instant::now() + self.hello.limits.start;
        loop {
            match send_hello(lifeline.as_fd(), &self.hello, self.socket.listener(), board.fd()) {
                // It is gone already: its exit, noticed later, says more.
                Ok(()) | Err(HandshakeError::Io(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN)) => return,
                // Descriptors in connections that nobody has accepted yet count against our user. Clients may take
                // them back.
                Err(HandshakeError::Io(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM))
                    if Instant::now() < patience =>
                {
                    sleep(HELLO_RETRY).await;
                }

                Err(error) => return self.report(Report::Malformed(error)).await,
            }
        }
    }

    async fn report(&self, report: Report) {
        // The loop outlives its generations; only a runtime that shuts down drops it earlier.
        let _ = self.reports.send((self.hello.generation, report)).await;
    }

    /// Logs what the worker is at, while it can still be seen.
    fn autopsy(&self, pid: u32, sickness: &Sickness, board: &Board, capture: &Capture) {
        let seen = board.read().ok();
        tracing::warn!(
            pid,
            generation = self.hello.generation,
            calls = autopsy::calls(seen.as_ref().map_or(&[], |seen| &seen.calls)),
            threads = autopsy::threads(pid),
            memory_bytes = autopsy::resident(pid),
            last_words = capture.tail().join("; "),
            "{} hangs: {sickness}",
            self.spec.name(),
        );
    }
}

/// The worker's answer, once there is one.
async fn receive(lifeline: &Watched) -> Result<Answer, HandshakeError> {
    loop {
        let mut ready = lifeline.readable().await.map_err(|_| HandshakeError::Closed)?;
        match receive_answer(lifeline.as_fd()) {
            Err(HandshakeError::Io(Errno::AGAIN)) => ready.clear_ready(),
            answer => return answer,
        }
    }
}

/// A process that is killed with its group and reaped when this is dropped.
struct Worker {
    child: Child,
    pidfd: Watched,
    reaped: bool,
}

impl Worker {
    fn watch(mut child: Child) -> io::Result<Self> {
        let pidfd =
            pidfd_open(pid_of(&child), PidfdFlags::empty()).map_err(io::Error::from).and_then(Watched::new);
        match pidfd {
            Ok(pidfd) => Ok(Worker { child, pidfd, reaped: false }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn pipes(&mut self) -> io::Result<(Receiver, Receiver)> {
        let missing = || io::Error::other("the worker has no pipes");
        let stdout = self.child.stdout.take().ok_or_else(missing)?;
        let stderr = self.child.stderr.take().ok_or_else(missing)?;
        Ok((Receiver::from_owned_fd(stdout.into())?, Receiver::from_owned_fd(stderr.into())?))
    }

    fn signal(&self, signal: Signal) {
        // It fails only when the process is gone, and that is being noticed.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Once it has exited: reaps it. A debugger that is attached to it learns of the exit first, and may take its
    /// time; after [`KILL`] it is not waited for any more: `None`.
    async fn reaped(&mut self) -> io::Result<Option<ExitStatus>> {
        let patience = Instant::now() + KILL;
        loop {
            match self.try_reap()? {
                None if Instant::now() < patience => sleep(REAP_RETRY).await,
                status => return Ok(status),
            }
        }
    }

    /// Reaps it when its tracer has let go of it. Nothing tells when.
    async fn left_to_its_tracer(mut self) {
        while let Ok(None) = self.try_reap() {
            sleep(KILL).await;
        }
    }

    /// Looks for the exit without reaping, kills what is left of its process group while the group's id cannot be
    /// anybody else's, then reaps.
    fn try_reap(&mut self) -> io::Result<Option<ExitStatus>> {
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), exited))?.is_none() {
            return Ok(None);
        }
        self.reaped = true;
        // No such process group: nobody was left.
        let _ = kill_process_group(pid_of(&self.child), Signal::KILL);
        self.child.wait().map(Some)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process_group(pid_of(&self.child), Signal::KILL);
            // Its exit may take a moment, for which nothing here may wait: then init reaps it after us.
            let _ = self.try_reap();
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

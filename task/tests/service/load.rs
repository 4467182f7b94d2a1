//! Callers that ask a service for as long as they are let, and check every answer.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use tarpc::trace::TraceId;
use tarpc::{ClientMessage, Request};
use task_host::client::context;
use task_proto::limits::Limits;
use task_proto::stats::{StatsRequest, StatsResponse};
use task_proto::wire::{self, ClientTransport, ConnectError, FdStream};
use tokio::task::LocalSet;

use crate::house::LIMIT;
use crate::inputs::{self, Input, Pool};
use crate::moments::Moments;
use crate::oracle::Statistic;
use crate::ours;
use crate::service::Service;
use crate::tally::{Fate, Seen, Tally};

/// Calls that a caller makes on one connection before it makes a new one.
const CALLS: usize = 40;
/// Calls that a plain caller sends before it reads the answers.
const AT_ONCE: usize = 8;
/// Refusals after which a plain caller gives up: it would ask for ever.
const REFUSALS: u64 = 10;

/// Who is to ask.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    pub(crate) socket: PathBuf,
    pub(crate) pool: Arc<Pool>,
    pub(crate) seed: u64,
    /// Callers with the client of this project.
    pub(crate) ours: usize,
    /// The same, each with a new pipe for every call.
    pub(crate) pipes: usize,
    /// Callers that know no more than the wire. They ask again themselves, if at all.
    pub(crate) plain: usize,
}

impl Crew {
    /// Four callers with the client of this project.
    pub(crate) fn of(service: &Service, seed: u64) -> Self {
        let pool = Arc::new(Pool::new(&service.house.path(""), &mut Moments::new(seed, LIMIT)));
        Crew { socket: service.socket(), pool, seed, ours: 4, pipes: 0, plain: 0 }
    }
}

/// What a caller has.
pub(crate) struct Caller {
    /// Its number among all.
    pub(crate) number: usize,
    pub(crate) socket: PathBuf,
    pub(crate) pool: Arc<Pool>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) moments: Moments,
}

/// Callers at work, on one thread of their own.
pub(crate) struct Load {
    pub(crate) seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(crew: &Crew) -> Self {
        let Crew { ours, pipes, plain, .. } = *crew;
        let seen = Arc::new(Seen::by(ours + pipes + plain));
        let (crew, shared) = (crew.clone(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut moments = Moments::new(crew.seed, LIMIT);
            let callers = LocalSet::new();
            for number in 0..ours + pipes + plain {
                let caller = Caller {
                    number,
                    socket: crew.socket.clone(),
                    pool: Arc::clone(&crew.pool),
                    seen: Arc::clone(&shared),
                    moments: Moments::new(moments.next(), LIMIT),
                };
                if number < ours {
                    callers.spawn_local(ours::ask(caller));
                } else if number < ours + pipes {
                    callers.spawn_local(ours::ask_with_pipes(caller));
                } else {
                    callers.spawn_local(ask_plainly(caller));
                }
            }
            runtime.block_on(callers);
        });
        Load { seen, thread: Some(thread) }
    }

    /// Lets the callers end what they are at.
    pub(crate) fn end(mut self) -> Tally {
        self.join();
        self.seen.lock().tally.clone()
    }

    fn join(&mut self) {
        self.seen.end();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a caller panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}

impl Caller {
    /// What to ask next.
    pub(crate) fn draw(&mut self) -> (usize, Statistic) {
        (self.pool.draw(&mut self.moments), inputs::statistic(&mut self.moments))
    }

    /// Writes down what became of a call.
    pub(crate) fn note(&self, fate: Fate, reason: impl FnOnce() -> String) {
        self.seen.call(self.number, fate, reason);
    }

    /// Writes down a reply, right or wrong.
    pub(crate) fn check(&self, input: &Input, statistic: Statistic, reply: &StatsResponse) {
        let fate = if input.expected.is(statistic, reply) { Fate::Right } else { Fate::Wrong };
        self.note(fate, || format!("{statistic:?} is {reply:?}, must be {:?}", input.expected));
    }

    pub(crate) fn trace_id(&mut self) -> u128 {
        u128::from(self.moments.next()) << 64 | u128::from(self.moments.next())
    }
}

type Transport = ClientTransport<StatsRequest, StatsResponse>;

/// Asks over the bare wire: a few requests, their answers, and so on.
async fn ask_plainly(mut caller: Caller) {
    while !caller.seen.is_over() && caller.seen.lock().tally.sum(&[Fate::Refused, Fate::Missing]) < REFUSALS {
        let stream = match wire::connect(&caller.socket).await {
            Ok(stream) => stream,
            Err(error) => {
                let fate = match error {
                    ConnectError::Refused => Fate::Refused,
                    ConnectError::Missing => Fate::Missing,
                    _ => Fate::Failed,
                };
                caller.note(fate, || error.to_string());
                continue;
            }
        };
        let mut transport: Transport = wire::client(FdStream::new(stream, 0).unwrap(), &Limits::default());
        for attachment in &caller.pool.attachments {
            transport.outgoing().push(Arc::clone(attachment));
        }
        let mut next = 0;
        while next < CALLS as u64 && !caller.seen.is_over() {
            if !exchange(&mut caller, &mut transport, &mut next).await {
                break;
            }
        }
    }
}

/// Sends some requests and takes their answers; false if the connection is at its end.
async fn exchange(caller: &mut Caller, transport: &mut Transport, next: &mut u64) -> bool {
    use futures::{SinkExt as _, StreamExt as _};

    let mut sent: Vec<(u64, Option<(usize, Statistic)>)> = Vec::new();
    let mut going = true;
    for number in 0..=caller.moments.below(AT_ONCE) {
        // The last asks who answers.
        let (asked, message) = if number == 0 {
            (None, StatsRequest::Ping {})
        } else {
            let (input, statistic) = caller.draw();
            let query = caller.pool.input(input).query.clone();
            (Some((input, statistic)), inputs::request(statistic, query))
        };
        let context = context(caller.trace_id(), Some(LIMIT));
        debug_assert_ne!(context.trace_context.trace_id, TraceId::from(0));
        let request = Request { context, id: *next, message };
        match transport.send(ClientMessage::Request(request)).await {
            Ok(()) => sent.push((*next, asked)),
            Err(error) => {
                caller.note(Fate::Again, || error.to_string());
                going = false;
                break;
            }
        }
        *next += 1;
    }
    while !sent.is_empty() {
        let reply = pin!(tokio::time::timeout(LIMIT, transport.next())).await;
        let (fate, reason) = match reply {
            Ok(Some(Ok(response))) => {
                let place = sent.iter().position(|(id, _)| *id == response.request_id);
                let asked = place.map(|place| sent.swap_remove(place).1);
                match (asked, response.message) {
                    (Some(None), Ok(StatsResponse::Ping(pong))) => {
                        caller.seen.worker(caller.number, pong);
                    }
                    (Some(Some((input, statistic))), Ok(reply)) => {
                        caller.check(caller.pool.input(input), statistic, &reply);
                    }
                    (Some(_), Err(error)) if error.kind == std::io::ErrorKind::BrokenPipe => {
                        caller.note(Fate::Again, || error.detail);
                        going = false;
                    }
                    (asked, message) => {
                        caller.note(Fate::Failed, || format!("{asked:?} is answered with {message:?}"));
                        if asked.is_none() {
                            return false;
                        }
                    }
                }
                continue;
            }
            Ok(Some(Err(error))) => (Fate::Cut, error.to_string()),
            Ok(None) => (Fate::Cut, "end of stream".to_owned()),
            Err(_) => (Fate::Late, format!("{} calls", sent.len())),
        };
        let accepted = transport.greeting().get().cloned();
        let fate = if fate == Fate::Cut && accepted.is_none() { Fate::Again } else { fate };
        for (id, asked) in sent {
            caller.note(fate, || format!("{reason}, of request {id} {asked:?} to {accepted:?}"));
        }
        return false;
    }
    going
}

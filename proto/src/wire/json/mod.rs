//! JSON-RPC, one message a line: version 2.0, and 1.0 where `"jsonrpc"` is absent.
//!
//! Each request, of a batch too, is held as it stands until there is a permit, like tarpc's; those of a long line are
//! decoded first. What tarpc leaves to its clients is done here: a deadline is answered when it passes, once it is known,
//! whatever became of the call. Every reply is made while the client takes replies; until then requests are read on and
//! held, so that a client that writes all before it reads is no worse off than tarpc's.

mod batch;
mod envelope;
mod line;
mod methods;
mod object;
mod reply;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tarpc::trace::{self, SamplingDecision};
use tarpc::{Response, context};
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use self::batch::Batches;
use self::envelope::{Caller, Unfit, Version};
use self::line::{Content, Fingerprint, Line, Member, read_line};
pub use self::methods::{Methods, Params};
pub use self::object::members;
pub use self::reply::JsonError;
use self::reply::TooLarge;
use super::decoder::{Decoder, Decoding};
use super::gate::{Gated, Permit};
use super::server::{Admitted, Dialect, Held, Incoming, Refused, Server};
use super::stream::FdStream;
use crate::crash::TraceId;
use crate::limits::{JSON_ERROR, JSON_REPLIES, LONG_MESSAGE, Limits, NO_DEADLINE};

/// The server's end of a connection whose client speaks JSON-RPC. Made within a tokio runtime.
pub fn json_server<Req: Send + 'static, Resp: 'static>(
    stream: FdStream,
    limits: &Limits,
    methods: Methods<Req, Resp>,
    decoder: &Decoder,
) -> Server<Lines<Req, Resp>> {
    let permits = Arc::new(Semaphore::new(limits.in_flight.min(Semaphore::MAX_PERMITS)));
    let lines = Lines {
        stream,
        methods,
        template: context::current(),
        line: limits.frame,
        batch: limits.in_flight,
        buffer: BytesMut::new(),
        scanned: 0,
        ended: false,
        decoder: decoder.clone(),
        decoding: Decoding::default(),
        spoke_one: false,
        arrived: VecDeque::new(),
        next: 0,
        calls: HashMap::new(),
        batches: Batches::new(limits.frame, limits.held),
        unsaid: reply::error(
            &Caller { id: None, version: Version::Two },
            &JsonError::too_large(limits.frame),
        )
        .len(),
        deadlines: DelayQueue::new(),
        out: BytesMut::new(),
        refused: Refused::default(),
    };
    Server::new(lines, permits, limits)
}

/// See [`json_server`].
pub struct Lines<Req, Resp> {
    stream: FdStream,
    methods: Methods<Req, Resp>,
    /// Any context: it has no constructor.
    template: context::Context,
    /// The longest line, each way.
    line: usize,
    /// The most requests of a batch.
    batch: usize,
    buffer: BytesMut,
    /// How much of the buffer has no end of a line.
    scanned: usize,
    ended: bool,
    decoder: Decoder,
    decoding: Decoding<(Result<Line<Req>, JsonError>, Instant)>,
    /// An answer without a request would be taken for one to the request with the id 0.
    spoke_one: bool,
    /// The requests of the last line, until they are taken.
    arrived: VecDeque<Held<Body<Req>>>,
    next: u64,
    /// All that are not answered, by the numbers that they have here.
    calls: HashMap<u64, Call>,
    batches: Batches,
    /// The length of the error that stands for a reply too large, without its request's id.
    unsaid: usize,
    deadlines: DelayQueue<u64>,
    out: BytesMut,
    refused: Refused,
}

/// The line that says why a connection is closed.
pub(super) fn notice(reason: &io::Error) -> Vec<u8> {
    let nobody = Caller { id: None, version: Version::Two };
    let mut notice = reply::error(&nobody, &JsonError::closing(reason));
    notice.push(b'\n');
    notice
}

fn note(trace_id: TraceId, error: &JsonError) {
    let reason = error.message();
    let trace_id = (trace_id.0 != 0).then(|| tracing::field::display(trace_id));
    tracing::debug!(log.target = "worker", reason, trace_id, "refused a request");
}

/// A request that is not answered.
struct Call {
    caller: Caller,
    /// Whether it is answered though it has no id: nobody can tell whether it was to have one.
    unfit: bool,
    batch: Option<u64>,
    timer: Option<Key>,
    /// Bytes of its batch's reply that are kept for it.
    kept: usize,
    /// Once it is known.
    trace_id: TraceId,
}

impl Call {
    fn new(caller: Caller, unfit: bool, batch: Option<u64>, timer: Option<Key>) -> Self {
        Call { caller, unfit, batch, timer, kept: 0, trace_id: TraceId(0) }
    }

    fn is_answered(&self) -> bool {
        self.caller.id.is_some() || self.unfit
    }
}

/// A request that waits for a permit; or what it is to be answered with.
pub struct Body<Req>(Result<Request<Req>, JsonError>);

struct Request<Req> {
    content: Content<Req>,
    deadline: Instant,
    trace_id: Option<u128>,
}

impl<Req: Send + 'static, Resp: 'static> Lines<Req, Resp> {
    /// The next whole line.
    fn take_line(&mut self) -> io::Result<Option<BytesMut>> {
        // What is between messages is no message begun.
        let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if blank > 0 {
            self.buffer.advance(blank);
            self.scanned = 0;
        }
        let end = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
        let length = end.map_or(self.buffer.len(), |end| self.scanned + end);
        if length > self.line {
            let reason = format!("a line is over the limit of {} bytes", self.line);
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
        self.scanned = length;
        if end.is_none() {
            return Ok(None);
        }
        self.scanned = 0;
        Ok(Some(self.buffer.split_to(length + 1)))
    }

    /// Takes a line, or begins to decode it elsewhere.
    fn take(&mut self, line: BytesMut, arrived: Instant) -> io::Result<()> {
        let batch = self.batch;
        if line.len() <= LONG_MESSAGE {
            return self.hold_line(read_line::<Req, Resp>(&line, batch, None), arrived);
        }
        let methods = self.methods;
        self.decoding = self.decoder.begin(move || (read_line(&line, batch, Some(&methods)), arrived));
        Ok(())
    }

    fn hold_line(&mut self, line: Result<Line<Req>, JsonError>, arrived: Instant) -> io::Result<()> {
        match line {
            Ok(Line::One(request)) => self.hold_member(request, None, arrived),
            Ok(Line::Batch(members)) => {
                let number = self.next;
                self.batches.begin(number, members.len());
                members.into_iter().try_for_each(|member| self.hold_member(member, Some(number), arrived))
            }
            Err(error) => {
                self.hold_unfit(Unfit { version: None, id: None, notification: false, error }, None)
            }
        }
    }

    fn hold_member(
        &mut self,
        member: Result<Member<Req>, Box<Unfit>>,
        batch: Option<u64>,
        arrived: Instant,
    ) -> io::Result<()> {
        let Member { caller, deadline, trace_id, content } = match member {
            Ok(member) => member,
            Err(unfit) => return self.hold_unfit(*unfit, batch),
        };
        let deadline = deadline.map(|deadline| deadline.saturating_sub(arrived.elapsed()));
        self.spoke_one |= caller.version == Version::One;
        let timer = deadline.map(|deadline| self.deadlines.insert(self.next, deadline));
        let call = Call::new(caller, false, batch, timer);
        if deadline.is_some_and(|deadline| deadline.is_zero()) {
            // There may be a permit before the timer is looked at.
            self.hold(call, 0, Err(JsonError::deadline()));
            return Ok(());
        }
        let deadline = Instant::now() + deadline.unwrap_or(NO_DEADLINE);
        let size = content.size();
        self.hold(call, size, Ok(Request { content, deadline, trace_id }));
        Ok(())
    }

    /// What is no request is answered in its turn, too.
    fn hold_unfit(&mut self, unfit: Unfit, batch: Option<u64>) -> io::Result<()> {
        let Unfit { version, id, notification, error } = unfit;
        self.spoke_one |= version == Some(Version::One);
        if version.is_none() && self.spoke_one && batch.is_none() {
            // There is no answer that its client would not take for another.
            return Err(io::Error::new(ErrorKind::InvalidData, error.message()));
        }
        let caller = Caller { id, version: version.unwrap_or(Version::Two) };
        // What it is to be answered with is larger than what was sent.
        let size = 2 * error.message().len() + JSON_ERROR;
        self.hold(Call::new(caller, !notification, batch, None), size, Err(error));
        Ok(())
    }

    fn hold(&mut self, mut call: Call, size: usize, request: Result<Request<Req>, JsonError>) {
        let id = self.next;
        self.next += 1;
        if let Some(batch) = call.batch
            && call.is_answered()
        {
            // With a comma.
            call.kept = self.unsaid + call.caller.id.as_deref().map_or(0, str::len) + 1;
            self.batches.keep(batch, call.kept);
        }
        // Its deadline is the timer's affair.
        let deadline = Instant::now() + NO_DEADLINE;
        let bytes = size + size_of::<Call>() + call.caller.id.as_deref().map_or(0, str::len);
        self.calls.insert(id, call);
        self.arrived.push_back(Held { id, deadline, bytes, body: Body(request) });
    }

    /// Answers a request once: later answers are nobody's. False if the client hears that its reply is too large instead.
    fn answer(
        &mut self,
        number: u64,
        reply: impl FnOnce(&Caller, usize) -> Result<Vec<u8>, TooLarge>,
    ) -> bool {
        let Some(call) = self.calls.remove(&number) else { return true };
        if let Some(timer) = &call.timer {
            self.deadlines.try_remove(timer);
        }
        // With its end of line, or its brackets.
        let said = call.is_answered().then(|| reply(&call.caller, self.line.saturating_sub(1)));
        let mut fits = true;
        let mut too_large = || {
            fits = false;
            reply::error(&call.caller, &JsonError::too_large(self.line))
        };
        match call.batch {
            None => {
                if let Some(said) = said {
                    self.out.extend_from_slice(&said.unwrap_or_else(|TooLarge| too_large()));
                    self.out.extend_from_slice(b"\n");
                }
            }
            Some(batch) => {
                if let Some(line) = self.batches.answer(batch, call.kept, said, too_large) {
                    self.out.extend_from_slice(&line);
                }
            }
        }
        if !fits {
            note(call.trace_id, &JsonError::too_large(self.line));
        }
        fits
    }

    fn answer_error(&mut self, number: u64, error: &JsonError) {
        self.answer(number, |caller, _| Ok(reply::error(caller, error)));
    }

    /// Answers a request that the service does not hear of.
    fn refuse(&mut self, number: u64, error: &JsonError) {
        let trace_id = self.calls.get(&number).map_or(TraceId(0), |call| call.trace_id);
        self.refused.unheard += 1;
        note(trace_id, error);
        self.answer_error(number, error);
    }

    /// That of a client that gives none: the same for the same request, so that one that workers die of is known again.
    /// 0, for which another is drawn, where it names an attachment that is not in memory: nobody can say at once what that
    /// leads to, and it must not be taken for another.
    fn trace_id(&self, Fingerprint { halves, attached }: &Fingerprint) -> u128 {
        let attachments = self.stream.attachments();
        // They go by numbers, which are the same on every connection.
        let identities = attached.iter().map(|number| Some((number, attachments.identity(*number)?)));
        let Some(identities) = identities.collect::<Option<Vec<_>>>() else { return 0 };
        let [high, low] = halves.map(|half| {
            let mut hasher = DefaultHasher::new();
            (half, &identities).hash(&mut hasher);
            u128::from(hasher.finish())
        });
        high << 64 | low
    }
}

impl<Req: Send + 'static, Resp: 'static> Dialect for Lines<Req, Resp> {
    type Req = Req;
    type Resp = Resp;
    type Body = Body<Req>;

    fn stream(&self) -> &FdStream {
        &self.stream
    }

    fn begun(&self) -> u64 {
        self.buffer.len() as u64
    }

    fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.out.is_empty()
    }

    fn is_decoding(&self) -> bool {
        self.decoding.is_under_way()
    }

    fn owes(&self) -> bool {
        !self.calls.is_empty()
    }

    fn refused(&self) -> Refused {
        self.refused
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_ready(cx).map(|_| ())
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<u64> {
        ready!(self.poll_room(cx));
        match ready!(self.deadlines.poll_expired(cx)) {
            Some(expired) => {
                let number = expired.into_inner();
                self.answer_error(number, &JsonError::deadline());
                Poll::Ready(number)
            }
            None => Poll::Pending,
        }
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
        now: Option<Instant>,
    ) -> Poll<Option<io::Result<Incoming<Self>>>> {
        loop {
            if let Some(held) = self.arrived.pop_front() {
                return Poll::Ready(Some(Ok(Incoming::Held(held))));
            }
            if let Some(decoded) = ready!(self.decoding.poll(cx)) {
                let (line, arrived) = decoded?;
                self.hold_line(line, arrived)?;
                continue;
            }
            if let Some(line) = self.take_line()? {
                self.take(line, now.unwrap_or_else(Instant::now))?;
                continue;
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let Lines { stream, buffer, .. } = self;
            if ready!(stream.poll_append(cx, buffer))? == 0 {
                self.ended = true;
                let rest = self.buffer.split();
                self.scanned = 0;
                // A line that we cut off ourselves may have been meant to go on.
                if !rest.is_empty() && !self.stream.is_stopped() {
                    self.take(rest, now.unwrap_or_else(Instant::now))?;
                }
            }
        }
    }

    fn admit(&mut self, held: Held<Body<Req>>, permit: Permit) -> io::Result<Option<Admitted<Self>>> {
        let Request { content, deadline, trace_id: given } = match held.body.0 {
            Ok(request) => request,
            Err(error) => {
                self.refuse(held.id, &error);
                return Ok(None);
            }
        };
        let (message, fingerprint) = match content {
            Content::Written(written) => (written.decode(&self.methods), written.fingerprint()),
            Content::Decoded(decoded) => (decoded.message, decoded.fingerprint),
        };
        let trace_id = given.unwrap_or_else(|| self.trace_id(&fingerprint));
        if let Some(call) = self.calls.get_mut(&held.id) {
            call.trace_id = TraceId(trace_id);
        }
        let message = match message {
            Ok(message) => Gated { message: Ok(message), permit },
            Err(error) => {
                self.refuse(held.id, &error);
                return Ok(None);
            }
        };
        let mut context = self.template;
        context.deadline = deadline;
        context.trace_context = trace::Context {
            trace_id: trace_id.into(),
            span_id: trace::SpanId::default(),
            // Whoever gives an id wants to find it in the log.
            sampling_decision: match given {
                Some(_) => SamplingDecision::Sampled,
                None => SamplingDecision::Unsampled,
            },
        };
        Ok(Some(tarpc::Request { context, id: held.id, message }))
    }

    fn notice(&self, reason: &io::Error) -> Vec<u8> {
        if self.spoke_one {
            return Vec::new();
        }
        notice(reason)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.len() < JSON_REPLIES {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    fn start_send(&mut self, reply: Response<Resp>) -> io::Result<()> {
        let Methods { reply: write, .. } = self.methods;
        match reply.message {
            Ok(result) => {
                let fits = self.answer(reply.request_id, |caller, limit| {
                    reply::result(caller, limit, |out| write(result, out))
                });
                self.refused.withheld += u64::from(!fits);
            }
            Err(error) => self.answer_error(reply.request_id, &JsonError::from(&error)),
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

//! One client's bytes: those that came and are not whole yet, and those that it has not taken yet.
//!
//! A connection at rest holds neither: what is read goes to a buffer of the loop, is executed there, and is answered from another one of the loop. Only
//! what is left over at the end is kept here. So ten thousand idle clients cost little, and the buffers in use stay in the processor's cache.
//!
//! A client that does not read its replies is not read from either, once they exceed what is enough; nothing it sent is lost.
//!
//! What a client can have done in one turn is bounded in each way in which it could take long: rounds of reading and answering, commands, keys of
//! a list, and any one command that was slow. Then the others are served first. A command that deletes all keys is itself done in turns: what the client
//! sent stays here, from that command on, until it has ended.

use crate::clients::{Client, PUSHED_BYTES_MAX};
use crate::memcache;
use crate::redis::pipeline::{OUTPUT_BYTES_ENOUGH, Pipeline};
use crate::redis::request::Batch;
use crate::shared::Shared;
use crate::statistics::LoopCounts;
use crate::transport::{Received, Sent, Transport};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is read at once.
pub const READ_BYTES: usize = 64 << 10;
/// What is read at once of a client that has not said who it is.
const STRANGERS_READ_BYTES: usize = 16 << 10;
/// A part of a command up to this length is moved to the loop's buffer when more of it comes.
const SHORT_BYTES: usize = 16 << 10;
/// Times that one client's commands are executed and its replies sent before others get their turn.
const ROUNDS_PER_TURN: usize = 4;
/// A command that is not whole yet may have so many bytes; spans need that many bits, too.
const INPUT_BYTES_MAX: usize = 1 << 30;

/// Buffers that the connections of one loop use in turn.
#[derive(Debug, Default)]
pub struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
    batch: Batch,
}

/// A client's side of the protocol that it speaks.
#[derive(Debug)]
pub enum Face {
    /// Redis.
    Redis(Pipeline),
    /// memcached.
    Memcached(memcache::session::Session),
}

impl Face {
    /// Executes what is whole in `input`. Returns the bytes done with.
    #[inline]
    fn process(
        &mut self,
        input: &[u8],
        argument_bytes_max: u64,
        batch: &mut Batch,
        client: &Arc<Client>,
        shared: &Shared,
        output: &mut Vec<u8>,
    ) -> usize {
        match self {
            Self::Redis(pipeline) => pipeline.process(input, argument_bytes_max, batch, shared, output),
            Self::Memcached(session) => session.process(input, client, shared, output),
        }
    }

    /// Whether what is left has to wait until a pause of clients is over.
    #[inline]
    fn is_paused(&self) -> bool {
        match self {
            Self::Redis(pipeline) => pipeline.session.is_paused,
            Self::Memcached(session) => session.is_paused,
        }
    }

    /// Whether the last commands took so long, or were so many, that others are served before what is left.
    #[inline]
    fn ends_turn(&self) -> bool {
        match self {
            Self::Redis(pipeline) => pipeline.session.ends_turn,
            Self::Memcached(session) => session.ends_turn,
        }
    }

    /// Whether it has not said who it is, where it has to.
    #[inline]
    fn is_stranger(&self) -> bool {
        match self {
            Self::Redis(pipeline) => !pipeline.session.is_authenticated,
            Self::Memcached(session) => !session.is_authenticated,
        }
    }

    /// Whether it is closed because what came is for another protocol.
    fn is_foreign(&self) -> bool {
        match self {
            Self::Redis(pipeline) => pipeline.is_foreign,
            Self::Memcached(session) => session.is_foreign,
        }
    }

    /// Whether the connection is to be closed once all replies are sent.
    #[inline]
    fn closes(&self) -> bool {
        match self {
            Self::Redis(pipeline) => pipeline.session.closes,
            Self::Memcached(session) => session.closes,
        }
    }
}

/// What is to become of a connection after it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait until it sends something.
    Read,
    /// Wait until it takes some of its replies.
    Write,
    /// Serve it again after the others.
    Again,
    /// It has not said who it is: serve it after all who have, and the others before it.
    Queue,
    /// Send nothing before its changes are durable.
    Hold,
    /// Execute nothing before a pause is over.
    Pause,
    /// It is over.
    Close,
}

/// A client.
#[derive(Debug)]
pub struct Connection {
    /// Its socket.
    pub transport: Transport,
    /// Its side of the protocol.
    face: Face,
    /// What others see of it.
    pub client: Arc<Client>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that were sent.
    sent: usize,
    /// Nothing is sent before this is durable.
    held_until: u64,
    is_ended: bool,
    is_broken: bool,
    /// Of a server that ends: bytes that are still to be read.
    last_bytes: Option<usize>,
    /// What the loop waits for on its behalf.
    pub waits_for: Next,
}

impl Connection {
    /// A client that has just come.
    pub fn new(transport: Transport, face: Face, client: Arc<Client>) -> Self {
        Self {
            transport,
            face,
            client,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            held_until: 0,
            is_ended: false,
            is_broken: false,
            last_bytes: None,
            waits_for: Next::Read,
        }
    }

    /// Whether it has not said who it is, where it has to: then it comes after those who have.
    #[inline]
    pub fn is_stranger(&self) -> bool {
        self.face.is_stranger()
    }

    /// What its replies wait for.
    pub fn held_until(&self) -> u64 {
        self.held_until
    }

    /// Puts bytes that the client did not ask for behind what it has not taken yet; false where that is too much.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        // It may have gone back to RESP2 since this was written, where nothing begins like this.
        let is_resp2 = matches!(&self.face, Face::Redis(pipeline) if !pipeline.session.is_resp3);
        if is_resp2 && bytes.first() == Some(&b'>') {
            return true;
        }
        let fits = self.output.len() - self.sent + bytes.len() <= PUSHED_BYTES_MAX;
        if fits {
            self.output.extend_from_slice(bytes);
        }
        fits
    }

    /// Those of the loop that serves it.
    #[inline]
    fn counts<'a>(&self, shared: &'a Shared) -> &'a LoopCounts {
        shared.statistics.of_loop(self.client.place.event_loop)
    }

    /// The client is gone: nobody is to reach it any more.
    pub fn leave(&mut self, shared: &Shared) {
        shared.clients.note_held(&self.client, 0);
        match &mut self.face {
            Face::Redis(pipeline) => pipeline.session.leave(shared),
            Face::Memcached(session) => session.leave(&self.client, shared),
        }
    }

    /// Whether it is over because something was wrong with it, and not because its client wanted that.
    pub fn has_failed(&self) -> bool {
        self.is_broken || self.face.is_foreign() || self.client.is_killed()
    }

    /// Lets others see what the client is at. Whether all clients together hold more memory than they may.
    pub fn publish(&self, now_ms: u64, shared: &Shared) -> bool {
        let client = &self.client;
        client.active_at_ms.store(now_ms, Ordering::Relaxed);
        if let Face::Redis(pipeline) = &self.face {
            pipeline.session.publish();
        }
        client.input_bytes.store(self.input.len(), Ordering::Relaxed);
        client.output_bytes.store(self.output.len() - self.sent, Ordering::Relaxed);
        shared
            .clients
            .note_held(client, self.input.capacity() + self.output.capacity() + client.state_bytes())
    }

    /// Reads, executes and answers as much as may be.
    pub fn serve(&mut self, argument_bytes_max: u64, buffers: &mut Buffers, shared: &Shared) -> Next {
        if self.held_until != 0 {
            if !shared.store.is_durable(self.held_until) {
                return Next::Hold;
            }
            self.held_until = 0;
        }
        if !self.output.is_empty() || self.transport.is_behind() {
            match self.send_rest(shared) {
                Next::Read => {}
                other => return other,
            }
        }
        // A stranger's is one read; what it has left of the one before is looked at first.
        let mut rounds_left =
            if self.is_stranger() { 1 + usize::from(!self.input.is_empty()) } else { ROUNDS_PER_TURN };
        // What was left because there was enough output, or the turn was over.
        if !self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            match self.execute(&input, input.len(), &mut rounds_left, argument_bytes_max, buffers, shared) {
                (done, Next::Read) => self.keep_input(input, done),
                (done, other) => {
                    self.keep_input(input, done);
                    return other;
                }
            }
        }
        while rounds_left > 0 {
            if self.is_ended || (shared.is_stopping.load(Ordering::Relaxed) && self.is_done()) {
                return Next::Close;
            }
            match self.read(&mut rounds_left, argument_bytes_max, buffers, shared) {
                Ok(true) => {}
                Ok(false) => return Next::Read,
                Err(next) => return next,
            }
        }
        Next::Again
    }

    /// Of a server that ends: whether all was read that had come when this was asked first. That is answered; what comes later is not, for a client
    /// may go on sending for ever.
    #[cold]
    fn is_done(&mut self) -> bool {
        let transport = &self.transport;
        *self.last_bytes.get_or_insert_with(|| transport.readable_bytes()) == 0
    }

    fn keep_input(&mut self, mut input: Vec<u8>, done: usize) {
        input.drain(..done);
        if input.is_empty() {
            input = Vec::new();
        } else if input.capacity() / 4 > input.len() {
            input.shrink_to(READ_BYTES);
        }
        self.input = input;
    }

    /// Reads once and serves that. Whether there may be more; else what is to become of the connection.
    fn read(
        &mut self,
        rounds_left: &mut usize,
        argument_bytes_max: u64,
        buffers: &mut Buffers,
        shared: &Shared,
    ) -> Result<bool, Next> {
        // Thousands of clients may each have sent a part of a command: none of them keeps more than that part.
        let is_own = self.input.len() > SHORT_BYTES;
        let mut input = std::mem::take(if is_own { &mut self.input } else { &mut buffers.input });
        if !self.input.is_empty() {
            input.append(&mut self.input);
            self.input = Vec::new();
        }
        let before = input.len();
        let (received, space) = if self.is_stranger() {
            input.reserve(STRANGERS_READ_BYTES);
            (self.transport.read_up_to(&mut input, STRANGERS_READ_BYTES), STRANGERS_READ_BYTES)
        } else {
            // A long argument is read in pieces that grow with it.
            input.reserve(READ_BYTES.max(before / 2));
            let space = input.capacity() - before;
            (self.transport.read(&mut input), space)
        };
        let received = match received {
            Received::Bytes(received) => received,
            Received::Nothing => {
                self.give_back(input, is_own, 0, buffers);
                return Ok(false);
            }
            end @ (Received::End | Received::Broken) => {
                self.is_broken = end == Received::Broken;
                if let Some(reason) = self.transport.failure() {
                    self.note_tls_failure(reason, shared);
                }
                return Err(Next::Close);
            }
        };
        self.counts(shared).received_bytes.add(received as u64);
        if let Some(last_bytes) = &mut self.last_bytes {
            *last_bytes = last_bytes.saturating_sub(received);
        }
        let length = input.len();
        let (done, next) = self.execute(&input, length, rounds_left, argument_bytes_max, buffers, shared);
        let is_too_long = length - done > INPUT_BYTES_MAX;
        self.give_back(input, is_own, done, buffers);
        match next {
            _ if is_too_long => Err(Next::Close),
            Next::Read => Ok(received >= space),
            other => Err(other),
        }
    }

    /// Keeps what is left of the input, and gives a buffer of the loop back to it.
    fn give_back(&mut self, mut input: Vec<u8>, is_own: bool, done: usize, buffers: &mut Buffers) {
        if is_own {
            self.keep_input(input, done);
        } else {
            if done < input.len() {
                self.input = input[done..].to_vec();
            }
            input.clear();
            input.shrink_to(READ_BYTES);
            buffers.input = input;
        }
    }

    /// Executes what is whole, and sends the replies. Returns the bytes done with.
    fn execute(
        &mut self,
        input: &[u8],
        length: usize,
        rounds_left: &mut usize,
        argument_bytes_max: u64,
        buffers: &mut Buffers,
        shared: &Shared,
    ) -> (usize, Next) {
        let mut done = 0;
        loop {
            *rounds_left = rounds_left.saturating_sub(1);
            let output = &mut buffers.output;
            output.clear();
            let (count, sequence) = thermae_core::deferring(|| {
                self.face.process(
                    &input[done..length],
                    argument_bytes_max,
                    &mut buffers.batch,
                    &self.client,
                    shared,
                    output,
                )
            });
            done += count;
            self.is_ended = self.face.closes();
            if self.is_ended && self.face.is_foreign() {
                self.note_foreign(shared);
            }
            let had_enough = output.len() >= OUTPUT_BYTES_ENOUGH;
            if sequence != 0 && !shared.store.is_durable(sequence) {
                self.keep_output(output, 0);
                self.held_until = sequence;
                return (done, Next::Hold);
            }
            let next = self.send(buffers, shared);
            if next == Next::Read && self.face.is_paused() {
                return (done, Next::Pause);
            }
            if next != Next::Read || self.is_ended {
                return (done, if self.is_ended && next == Next::Read { Next::Close } else { next });
            }
            if self.face.ends_turn() || (had_enough && *rounds_left == 0) {
                return (done, Next::Again);
            }
            if !had_enough {
                return (done, Next::Read);
            }
        }
    }

    /// A client that can't speak to the server hears little of why; whoever runs the server should know.
    #[cold]
    fn note_tls_failure(&self, reason: String, shared: &Shared) {
        let fields = vec![("address", self.client.address.clone()), ("reason", reason)];
        shared.journal.note("tls-failed", shared.store.now_ms(), fields);
    }

    /// Somebody should know who sends what is for another protocol.
    #[cold]
    fn note_foreign(&self, shared: &Shared) {
        let reason = "it sent a request of HTTP, as a browser can be made to";
        let fields = vec![("address", self.client.address.clone()), ("reason", reason.to_owned())];
        shared.journal.note("connection-suspicious", shared.store.now_ms(), fields);
    }

    /// Sends the loop's output; what the client does not take is kept.
    fn send(&mut self, buffers: &mut Buffers, shared: &Shared) -> Next {
        let output = &mut buffers.output;
        let Sent::Bytes(sent) = self.transport.send(output) else {
            self.is_broken = true;
            return Next::Close;
        };
        self.counts(shared).sent_bytes.add(sent as u64);
        let is_sent = sent == output.len() && !self.transport.is_behind();
        if sent < output.len() {
            self.keep_output(output, sent);
        }
        output.clear();
        output.shrink_to(2 * OUTPUT_BYTES_ENOUGH);
        if is_sent { Next::Read } else { Next::Write }
    }

    /// Keeps what the client has not been sent yet of the loop's output: short of a large reply, and all of that, which is not copied.
    fn keep_output(&mut self, output: &mut Vec<u8>, sent: usize) {
        if self.output.is_empty() && output.len() > 2 * OUTPUT_BYTES_ENOUGH {
            (self.output, self.sent) = (std::mem::take(output), sent);
        } else {
            self.output.extend_from_slice(&output[sent..]);
        }
    }

    /// Sends what was kept.
    fn send_rest(&mut self, shared: &Shared) -> Next {
        let Sent::Bytes(sent) = self.transport.send(&self.output[self.sent..]) else {
            self.is_broken = true;
            return Next::Close;
        };
        self.counts(shared).sent_bytes.add(sent as u64);
        self.sent += sent;
        if self.sent < self.output.len() || self.transport.is_behind() {
            return Next::Write;
        }
        (self.output, self.sent) = (Vec::new(), 0);
        if self.is_ended { Next::Close } else { Next::Read }
    }
}

//! One loop: waits for all its connections at once and serves each in place, on the processor that read it.
//!
//! Loops share the store and nothing on the way of a request. The first one accepts and deals the connections out. A loop is woken by its
//! [`Mailbox`]: for a new connection, for changes that have become durable, and to end.

use crate::attention::CONNECTIONS;
use crate::clients::{self, Client};
use crate::connection::{Buffers, Connection, Face, Next};
use crate::mailbox::Mailbox;
use crate::memcache;
use crate::memcache::flushing::DelayedFlush;
use crate::redis::pipeline::Pipeline;
use crate::redis::session::Session;
use crate::shared::Shared;
use crate::socket::{Accepted, Listener, Protocol};
use crate::transport::Transport;
use crate::watch_log::WatchLog;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustls::ServerConnection;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

const EVENTS_PER_WAIT: usize = 256;
/// Clients accepted in one turn.
const ACCEPTED_PER_TURN: usize = 16;
/// How long strangers together are served in a turn, but for the last of them: the others, who have said who they are, wait for it.
const STRANGERS_TURN: Duration = Duration::from_micros(20);
/// How long accepting rests after the system refused a connection: there are too many open files, and trying again at once would only spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long replies may take to be taken while the server ends.
const END_MAX: Duration = Duration::from_secs(5);
/// Longest sleep: clocks are looked at so often.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How often idle clients are looked for.
const IDLE_LOOK_EVERY_MS: u64 = 1_000;

const MAILBOX: u64 = u64::MAX;
const LISTENER: u64 = 1 << 63;

/// A place for a connection. Its number and the count of its uses are what an event is known by: one for who was there before is none.
#[derive(Debug, Default)]
struct Place {
    uses: u32,
    connection: Option<Box<Connection>>,
}

/// A loop with its connections.
#[derive(Debug)]
pub struct EventLoop {
    number: usize,
    epoll: OwnedFd,
    mailboxes: Arc<[Mailbox]>,
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    accepts_again_at: Option<Instant>,
    /// Store clock.
    looked_for_idle_at_ms: u64,
    /// When it last woke, store clock: precise enough for how long clients are idle.
    woke_at_ms: u64,
    dealt: usize,
    places: Vec<Place>,
    free: Vec<u32>,
    held: Vec<u64>,
    paused: Vec<u64>,
    /// Whose turn is over, and who are served again after the others.
    again: Vec<u64>,
    /// Strangers of whom there is news.
    strangers: Vec<u64>,
    /// Strangers whose turn did not come.
    queue: VecDeque<u64>,
    flush: DelayedFlush,
    /// It has more to do at once.
    is_flushing: bool,
    buffers: Buffers,
}

impl EventLoop {
    /// A loop that accepts from these listeners, if any.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(
        number: usize,
        listeners: Vec<Listener>,
        mailboxes: Arc<[Mailbox]>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailboxes[number].bell(), EventData::new_u64(MAILBOX), EventFlags::IN)?;
        for (index, listener) in listeners.iter().enumerate() {
            epoll::add(&epoll, &listener.fd, EventData::new_u64(LISTENER | index as u64), EventFlags::IN)?;
        }
        Ok(Self {
            number,
            epoll,
            mailboxes,
            shared,
            listeners,
            accepts_again_at: None,
            looked_for_idle_at_ms: 0,
            woke_at_ms: 0,
            dealt: 0,
            places: Vec::new(),
            free: Vec::new(),
            held: Vec::new(),
            paused: Vec::new(),
            again: Vec::new(),
            strangers: Vec::new(),
            queue: VecDeque::new(),
            flush: DelayedFlush::default(),
            is_flushing: false,
            buffers: Buffers::default(),
        })
    }

    /// Serves until the server ends.
    ///
    /// # Errors
    /// What the system says when it is asked for events.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        let mut ends_at = None;
        loop {
            if self.shared.is_stopping.load(Ordering::SeqCst) {
                let ends_at = *ends_at.get_or_insert_with(|| Instant::now() + END_MAX);
                self.stop();
                if self.free.len() == self.places.len() || Instant::now() >= ends_at {
                    return Ok(());
                }
            }
            self.wait(&mut events)?;
            self.woke_at_ms = self.shared.store.now_ms();
            self.close_idle();
            self.is_flushing = self.flush.go_on(&self.shared);
            self.end_pause();
            if events.is_empty() {
                // Others may have made durable what they wait for.
                self.serve_held();
            }
            let again = std::mem::take(&mut self.again);
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == MAILBOX {
                    self.open_mailbox();
                } else if token & LISTENER != 0 {
                    self.accept((token & !LISTENER) as usize);
                } else {
                    self.rouse(token, event.flags);
                }
            }
            again.into_iter().for_each(|token| self.serve(token));
            self.serve_strangers();
        }
    }

    /// Serves clients that have not said who they are, first those who wait, as long as they may take together. The loop hears no more of the
    /// others until their turn has come: however many there are, no turn gets longer by them.
    fn serve_strangers(&mut self) {
        if self.strangers.is_empty() && self.queue.is_empty() {
            return;
        }
        let until = Instant::now() + STRANGERS_TURN;
        let mut strangers = std::mem::take(&mut self.strangers);
        let mut rest = strangers.drain(..);
        // Those who are to be served again come behind those who wait, in a queue that this turn need not see the end of.
        let waiting = self.queue.len();
        let mut served = 0;
        loop {
            let next = if served < waiting { self.queue.pop_front() } else { rest.next() };
            let Some(token) = next else { break };
            self.serve(token);
            served += 1;
            if Instant::now() >= until {
                break;
            }
        }
        for token in rest {
            self.wait_for(token, Next::Queue);
        }
        self.strangers = strangers;
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut timeout = WAIT_MAX;
        if let Some(at) = self.accepts_again_at {
            let now = Instant::now();
            if now >= at {
                self.accepts_again_at = None;
                self.listen(EventFlags::IN)?;
            } else {
                timeout = timeout.min(at - now);
            }
        }
        if !self.paused.is_empty() {
            let left_ms = self.shared.pause.left_ms(self.shared.store.now_ms());
            timeout = timeout.min(Duration::from_millis(left_ms.max(1)));
        }
        if !self.again.is_empty() || !self.queue.is_empty() || self.is_flushing {
            timeout = Duration::ZERO;
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn listen(&self, flags: EventFlags) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            epoll::modify(&self.epoll, &listener.fd, EventData::new_u64(LISTENER | index as u64), flags)?;
        }
        Ok(())
    }

    fn open_mailbox(&mut self) {
        for accepted in self.mailboxes[self.number].take() {
            self.welcome(accepted);
        }
        self.deliver_messages();
        for token in self.mailboxes[self.number].take_closing() {
            let index = token as u32;
            if self.places.get(index as usize).is_some_and(|place| place.uses == (token >> 32) as u32) {
                self.close(index);
            }
        }
        self.serve_held();
    }

    /// Puts messages behind what their clients have not taken yet, and sends that where nothing keeps it back.
    fn deliver_messages(&mut self) {
        let mut tokens = Vec::new();
        for message in self.mailboxes[self.number].take_messages() {
            let place = self.places.get_mut(message.token as u32 as usize);
            let place = place.filter(|place| place.uses == (message.token >> 32) as u32);
            if let Some(connection) = place.and_then(|place| place.connection.as_mut()) {
                if !connection.push(&message.bytes) {
                    self.close_for(message.token as u32, "error");
                } else if !matches!(
                    connection.waits_for,
                    Next::Hold | Next::Pause | Next::Again | Next::Queue
                ) {
                    tokens.push(message.token);
                }
            }
        }
        tokens.sort_unstable();
        tokens.dedup();
        tokens.into_iter().for_each(|token| self.serve(token));
    }

    fn serve_held(&mut self) {
        for token in std::mem::take(&mut self.held) {
            self.serve(token);
        }
    }

    /// Accepts who waits, and deals them out to all loops in turn.
    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTED_PER_TURN {
            match self.listeners[index].accept() {
                Ok(None) => return,
                Ok(Some(accepted)) => {
                    self.shared.statistics.connections.fetch_add(1, Ordering::Relaxed);
                    let to = self.dealt % self.mailboxes.len();
                    self.dealt += 1;
                    if to == self.number { self.welcome(accepted) } else { self.mailboxes[to].give(accepted) }
                }
                Err(error) => {
                    let at_ms = self.shared.store.now_ms();
                    self.shared.journal.note("accept-failed", at_ms, vec![("reason", error.to_string())]);
                    self.accepts_again_at = Some(Instant::now() + ACCEPT_REST);
                    // Where not even this works, the listeners ring again at once, which is no worse than before.
                    drop(self.listen(EventFlags::empty()));
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, accepted: Accepted) {
        let Accepted { fd, address, local_address, is_local, protocol, tls } = accepted;
        let is_authenticated = match self.judge(is_local) {
            Ok(is_authenticated) => is_authenticated,
            Err(refusal) => {
                self.shared.statistics.connections_refused.fetch_add(1, Ordering::Relaxed);
                let reason = refusal.trim_end().trim_start_matches(['-', 'E', 'R', ' ']).to_owned();
                let fields = vec![("address", address), ("reason", reason)];
                self.shared.journal.note("connection-refused", self.shared.store.now_ms(), fields);
                let refusal = match protocol {
                    Protocol::Redis => refusal.to_owned(),
                    Protocol::Memcached => {
                        refusal.replacen("-ERR ", "ERROR ", 1).replacen("-DENIED ", "SERVER_ERROR ", 1)
                    }
                };
                // Who does not take it is refused all the same; and who speaks TLS could not read it.
                if tls.is_none() {
                    let _ = rustix::net::send(&fd, refusal.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
                }
                return;
            }
        };
        let raw_fd = fd.as_raw_fd();
        let transport = match tls.map(ServerConnection::new) {
            None => Transport::Plain(fd),
            Some(Ok(session)) => Transport::tls(fd, session),
            // Without a session there is nothing to be said to it.
            Some(Err(_)) => return,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        let token = u64::from(place.uses) << 32 | u64::from(index);
        if epoll::add(&self.epoll, &transport, EventData::new_u64(token), EventFlags::IN).is_err() {
            self.free.push(index);
            return;
        }
        let id = self.shared.next_client_id.fetch_add(1, Ordering::Relaxed);
        let reached = clients::Place { fd: raw_fd, event_loop: self.number, token };
        let now_ms = self.shared.store.now_ms();
        let client = Arc::new(Client::new(id, address, local_address, reached, now_ms));
        let face = match protocol {
            Protocol::Redis => Face::Redis(Pipeline::new(Session::of(Arc::clone(&client), is_authenticated))),
            Protocol::Memcached => {
                client.flags.store(clients::marks::MEMCACHED, Ordering::Relaxed);
                Face::Memcached(memcache::session::Session::new(is_authenticated, self.number))
            }
        };
        self.shared.clients.add(&client);
        if protocol == Protocol::Memcached && self.shared.attention.wanted() & CONNECTIONS != 0 {
            let mut log = WatchLog::default();
            log.connected(CONNECTIONS, raw_fd, &client.address);
            self.shared.show(&mut log);
        }
        let place = &mut self.places[index as usize];
        place.connection = Some(Box::new(Connection::new(transport, face, client)));
        self.shared.statistics.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether who comes need not say who it is; the line with which it is refused, where it is.
    fn judge(&self, is_local: bool) -> Result<bool, &'static str> {
        let config = self.shared.config.read().unwrap_or_else(PoisonError::into_inner);
        let clients = self.shared.statistics.clients.load(Ordering::Relaxed);
        if clients >= u64::from(config.clients_max) {
            return Err("-ERR max number of clients reached\r\n");
        }
        let everybody = self.shared.users.default_user();
        if !is_local && config.protected_mode && everybody.needs_no_password {
            return Err(
                "-DENIED Thermae is running in protected mode: it has no password, so it talks to clients on its own machine only. \
                 Set a password (--password), or turn protected mode off (--no-protected-mode) where the network is trusted.\r\n",
            );
        }
        Ok(everybody.is_open())
    }

    fn serve(&mut self, token: u64) {
        let (index, uses) = (token as u32, (token >> 32) as u32);
        let Some(place) = self.places.get_mut(index as usize).filter(|place| place.uses == uses) else {
            return;
        };
        let Some(connection) = &mut place.connection else { return };
        let argument_bytes_max = self.shared.argument_bytes_max.load(Ordering::Relaxed);
        let next = connection.serve(argument_bytes_max, &mut self.buffers, &self.shared);
        let is_too_much = connection.publish(self.woke_at_ms, &self.shared);
        let next = if next == Next::Hold && self.shared.flusher.has_failed() {
            let reason = "a flush failed, so that it is unknown what of its changes the disk has";
            let fields = vec![("address", connection.client.address.clone()), ("reason", reason.to_owned())];
            self.shared.journal.note("connection-closed", self.woke_at_ms, fields);
            Next::Close
        } else {
            next
        };
        if next == Next::Hold {
            self.shared.flusher.want(connection.held_until());
        }
        let next = if next == Next::Again && connection.is_stranger() { Next::Queue } else { next };
        // As nearly always: nothing has changed.
        if next != Next::Read || connection.waits_for != Next::Read {
            self.wait_for(token, next);
        }
        if is_too_much {
            self.shared.end_largest();
        }
    }

    /// From now on the loop waits for this on behalf of a client.
    fn wait_for(&mut self, token: u64, next: Next) {
        let place = &mut self.places[token as u32 as usize];
        let Some(connection) = place.connection.as_mut().filter(|_| place.uses == (token >> 32) as u32)
        else {
            return;
        };
        match next {
            Next::Hold => self.held.push(token),
            Next::Pause => self.paused.push(token),
            Next::Again => self.again.push(token),
            Next::Queue => self.queue.push_back(token),
            Next::Close => return self.close(token as u32),
            Next::Read | Next::Write => {}
        }
        let before = std::mem::replace(&mut connection.waits_for, next);
        let interest = |next| match next {
            Next::Read | Next::Again => EventFlags::IN,
            Next::Write => EventFlags::OUT,
            Next::Pause => EventFlags::RDHUP,
            Next::Hold | Next::Queue | Next::Close => EventFlags::empty(),
        };
        let is_lost = interest(before) != interest(next)
            && epoll::modify(
                &self.epoll,
                connection.transport.as_fd(),
                EventData::new_u64(token),
                interest(next),
            )
            .is_err();
        if is_lost {
            self.close(token as u32);
        }
    }

    /// Closes a connection because it is over, for a reason that it knows itself.
    fn close(&mut self, index: u32) {
        let connection = self.places[index as usize].connection.as_ref();
        let has_failed = connection.is_some_and(|connection| connection.has_failed());
        self.close_for(index, if has_failed { "error" } else { "normal" });
    }

    /// Closes a connection; the reason is memcached's word for it.
    fn close_for(&mut self, index: u32, reason: &str) {
        let place = &mut self.places[index as usize];
        if let Some(mut connection) = place.connection.take() {
            connection.leave(&self.shared);
            let client = &connection.client;
            if client.flags.load(Ordering::Relaxed) & clients::marks::MEMCACHED != 0
                && self.shared.attention.wanted() & CONNECTIONS != 0
            {
                let mut log = WatchLog::default();
                log.disconnected(CONNECTIONS, client.place.fd, &client.address, reason);
                self.shared.show(&mut log);
            }
            self.shared.clients.remove(connection.client.id);
            place.uses = (place.uses + 1) & (u32::MAX >> 1);
            self.free.push(index);
            self.shared.statistics.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Serves a client of whom there is news. Of one that waits for the end of a pause, or for its changes to be durable, it is news only that it
    /// has gone: else the event is from before it waited, for a message may have had it served meanwhile. One whose turn is over, or who waits behind
    /// other strangers, waits on: it may have gone, and what it had sent before that counts.
    fn rouse(&mut self, token: u64, flags: EventFlags) {
        let place = self.places.get(token as u32 as usize).filter(|place| place.uses == (token >> 32) as u32);
        let connection = place.and_then(|place| place.connection.as_deref());
        match connection.map(|connection| connection.waits_for) {
            Some(Next::Pause | Next::Hold) => {
                if flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR) {
                    self.close(token as u32);
                }
            }
            Some(Next::Again | Next::Queue) => {}
            _ if connection.is_some_and(Connection::is_stranger) => self.strangers.push(token),
            _ => self.serve(token),
        }
    }

    /// Serves those who waited for the end of a pause, once it has come.
    fn end_pause(&mut self) {
        if !self.paused.is_empty() && self.shared.pause.left_ms(self.woke_at_ms) == 0 {
            for token in std::mem::take(&mut self.paused) {
                let place = self.places.get(token as u32 as usize);
                let connection = place.and_then(|place| place.connection.as_deref());
                if connection.is_some_and(Connection::is_stranger) {
                    self.wait_for(token, Next::Queue);
                } else {
                    self.serve(token);
                }
            }
        }
    }

    /// Closes clients that have said nothing for so long as they may.
    fn close_idle(&mut self) {
        if self.woke_at_ms.saturating_sub(self.looked_for_idle_at_ms) < IDLE_LOOK_EVERY_MS {
            return;
        }
        self.looked_for_idle_at_ms = self.woke_at_ms;
        let timeout_seconds =
            self.shared.config.read().unwrap_or_else(PoisonError::into_inner).timeout_seconds;
        if timeout_seconds == 0 {
            return;
        }
        let before_ms = self.woke_at_ms.saturating_sub(timeout_seconds.saturating_mul(1000));
        for index in 0..self.places.len() {
            let connection = self.places[index].connection.as_ref();
            // Who waits for the server, or for what others do, is not idle; who takes no replies is.
            if connection.is_some_and(|connection| {
                matches!(connection.waits_for, Next::Read | Next::Write)
                    && !connection.client.is_listening()
                    && connection.client.active_at_ms.load(Ordering::Relaxed) < before_ms
            }) {
                self.close_for(index as u32, "idle_timeout");
            }
        }
    }

    /// Takes no more clients, and lets those go to whom nothing is owed.
    fn stop(&mut self) {
        self.listeners.clear();
        for index in 0..self.places.len() {
            let waits_for = self.places[index].connection.as_ref().map(|connection| connection.waits_for);
            if waits_for
                .is_some_and(|next| !matches!(next, Next::Write | Next::Hold | Next::Again | Next::Queue))
            {
                self.close_for(index as u32, "shutdown");
            }
        }
    }
}

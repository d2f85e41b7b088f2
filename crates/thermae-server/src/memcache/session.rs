//! One client of the memcached protocol: all that a read brought, found in one pass, executed in place, answered in one piece.

use crate::clients::Client;
use crate::counts::Count;
use crate::memcache::flushing::Flush;
use crate::memcache::request::{BAD_CHUNK, Data, Limits, Mode, Refusal, Request, Storage, parse};
use crate::memcache::retrieval::{Listed, go_on, retrieve};
use crate::memcache::turn::Turn;
use crate::memcache::verbs::verb_of;
use crate::memcache::words::Words;
use crate::memcache::{administration, meta, statistics, storage, watch};
use crate::redis::{client, telling};
use crate::refusals;
use crate::shared::Shared;
use crate::users::DEFAULT;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Requests looked at together, so that their cache misses overlap.
const BATCH_REQUESTS: usize = 64;
/// What a request of the binary protocol begins with, and the header that it begins.
const BINARY_MARK: u8 = 0x80;
const BINARY_HEADER_BYTES: usize = 24;

/// What a request leaves to the client's next turn.
enum Rest<'a> {
    /// These keys of a list.
    Keys(Listed, Words<'a>),
    /// A flush, of which nothing was answered yet: the request is found again, and goes on with what it has done.
    Flush(Box<Flush>),
}

/// The rest of a list of keys.
#[derive(Debug)]
struct Unfinished {
    listed: Listed,
    /// Bytes of the words.
    words: usize,
    /// Bytes up to the line's end and with it.
    line: usize,
}

/// A client.
#[derive(Debug)]
pub struct Session {
    /// Set when the connection is to be closed after what was answered.
    pub closes: bool,
    /// Its client speaks another protocol.
    pub is_foreign: bool,
    /// Its next request waits for the end of a pause.
    pub is_paused: bool,
    /// Others are served before what is left of what it sent.
    pub ends_turn: bool,
    /// Whether it said who it is, or need not.
    pub is_authenticated: bool,
    /// The loop that serves it.
    event_loop: usize,
    /// Whose rights it has, and the count of changes of users when they were looked up; 0: they were not yet.
    user: Vec<u8>,
    users_version: u64,
    /// Nothing was received yet.
    is_new: bool,
    /// It is shown what clients do, and what it sends is not looked at any more.
    watches: bool,
    /// Bytes that are to come and will not be looked at.
    skipped: usize,
    /// Bytes that hold no line's end.
    looked_at: usize,
    /// A list of keys that is answered in part.
    list: Option<Unfinished>,
    /// What the request that comes next has to go on with.
    flush: Option<Box<Flush>>,
}

impl Session {
    /// A client that has just come to a loop.
    pub fn new(is_authenticated: bool, event_loop: usize) -> Self {
        Self {
            closes: false,
            is_foreign: false,
            is_paused: false,
            ends_turn: false,
            is_authenticated,
            event_loop,
            user: DEFAULT.to_vec(),
            users_version: 0,
            is_new: true,
            watches: false,
            skipped: 0,
            looked_at: 0,
            list: None,
            flush: None,
        }
    }

    /// Executes what is whole in `buffer`, until there is enough output. Returns how many bytes it is done with.
    pub fn process(
        &mut self,
        buffer: &[u8],
        client: &Arc<Client>,
        shared: &Shared,
        output: &mut Vec<u8>,
    ) -> usize {
        (self.is_paused, self.ends_turn) = (false, false);
        if self.watches {
            return buffer.len();
        }
        if self.is_new && buffer.first() == Some(&BINARY_MARK) {
            return self.refuse_binary(buffer, output);
        }
        self.is_new &= buffer.is_empty();
        if shared.users.version() != self.users_version {
            self.look_up(client, shared);
            if self.closes {
                return buffer.len();
            }
            if !self.is_authenticated {
                self.stop_flush(shared);
            }
        }
        let counts = shared.statistics.of_loop(self.event_loop);
        let mut turn = Turn::new(client, shared, counts, output);
        let done = self.execute(buffer, &mut turn);
        self.ends_turn = turn.is_over();
        if !turn.events.is_empty() {
            telling::tell(shared, &turn.events);
        }
        if !turn.log.is_empty() {
            shared.show(&mut turn.log);
        }
        counts.memcached.add(&turn.tally);
        done
    }

    /// The client is gone: nobody is to reach it any more.
    pub fn leave(&mut self, client: &Client, shared: &Shared) {
        self.stop_flush(shared);
        if std::mem::take(&mut self.watches) {
            shared.watchers.remove(client, &shared.attention);
        }
    }

    fn stop_flush(&mut self, shared: &Shared) {
        if let Some(flush) = self.flush.take() {
            flush.stop(shared);
        }
    }

    /// Users were changed: a client whose user may not do everything any more has to say once again who it is. One that was ended with its user is
    /// closed, for there may be another user of that name by now.
    #[cold]
    fn look_up(&mut self, client: &Client, shared: &Shared) {
        self.users_version = shared.users.version();
        self.closes |= client.is_killed();
        let user = shared.users.get(&self.user);
        if !self.closes && user.is_some_and(|user| user.may_do_everything()) {
            return;
        }
        self.is_authenticated = false;
        self.become_user(DEFAULT, client);
    }

    /// It has the rights of this user from now on, and others see that: whoever ends the clients of a user finds them by it.
    fn become_user(&mut self, name: &[u8], client: &Client) {
        self.user = name.to_vec();
        client.become_user(name);
    }

    fn execute(&mut self, buffer: &[u8], turn: &mut Turn<'_>) -> usize {
        let known = Limits::new(turn.shared.memcached_value_bytes_max.load(Ordering::Relaxed));
        let mut requests = Vec::new();
        let mut done = 0;
        loop {
            let skipped = self.skipped.min(buffer.len() - done);
            self.skipped -= skipped;
            done += skipped;
            if let Some(Unfinished { listed, words, line }) = self.list.take() {
                let line = &buffer[done..done + line];
                done += line.len();
                if let Some(rest) = go_on(turn, listed, Words::resumed(&line[..words])) {
                    done -= self.wait_with(listed, rest, line);
                    return done;
                }
            }
            if turn.has_enough() {
                return done;
            }
            requests.clear();
            let begin = done;
            let mut end = begin;
            // What a stranger may send depends on the request before: it may be its login.
            let (limits, requests_max) =
                if self.is_authenticated { (known, BATCH_REQUESTS) } else { (Limits::STRANGERS, 1) };
            while requests.len() < requests_max && end < buffer.len() {
                let Some(framed) = parse(&buffer[end..], &mut self.looked_at, limits) else { break };
                let from = end;
                end += framed.end;
                requests.push((framed.request, from, end));
            }
            if requests.len() > 1 {
                turn.store().prefetch(requests.iter().filter_map(|(request, ..)| request.key()));
            }
            turn.begin();
            for &(request, from, end) in &requests {
                if turn.shared.pause.may_be_on() && self.is_authenticated && has_to_wait(&request, turn) {
                    self.is_paused = true;
                    self.looked_at = 0;
                    return done;
                }
                if self.is_authenticated {
                    turn.step();
                } else {
                    turn.step_of_a_stranger();
                }
                done = end.min(buffer.len());
                self.skipped = end - done;
                let start = turn.output.len();
                match self.execute_one(request, turn) {
                    None => turn.end(verb_of(&request), start),
                    Some(Rest::Keys(listed, rest)) => {
                        turn.end(verb_of(&request), start);
                        done -= self.wait_with(listed, rest, &buffer[from..end]);
                    }
                    Some(Rest::Flush(flush)) => {
                        self.flush = Some(flush);
                        self.looked_at = 0;
                        turn.steps_left = 0;
                        return from;
                    }
                }
                if self.watches {
                    return buffer.len();
                }
                if self.closes || turn.has_enough() {
                    self.looked_at = 0;
                    return done;
                }
            }
            if requests.len() < requests_max {
                return done;
            }
        }
    }

    /// Keeps the rest of a list for later. Returns its bytes, the end of its line included.
    fn wait_with(&mut self, listed: Listed, rest: Words<'_>, line: &[u8]) -> usize {
        let left = line.len() - (rest.rest().as_ptr().addr() - line.as_ptr().addr());
        self.list = Some(Unfinished { listed, words: rest.rest().len(), line: left });
        left
    }

    #[inline]
    fn execute_one<'a>(&mut self, request: Request<'a>, turn: &mut Turn<'_>) -> Option<Rest<'a>> {
        if !self.is_authenticated {
            self.authenticate(request, turn);
            return None;
        }
        match request {
            Request::Retrieval(retrieval) => {
                return retrieve(turn, retrieval).map(|(listed, rest)| Rest::Keys(listed, rest));
            }
            Request::Storage(storage) => storage::store(turn, storage),
            Request::MetaSet(key, words, data) => meta::set(turn, key, words, data),
            Request::Line(name, words) => return self.execute_line(name, words, turn).map(Rest::Flush),
            Request::Refused(Refusal { text, is_silent, closes }) => {
                self.closes = closes;
                turn.line_unless(is_silent, text);
            }
        }
        None
    }

    fn execute_line(&mut self, name: &[u8], words: Words<'_>, turn: &mut Turn<'_>) -> Option<Box<Flush>> {
        match name {
            b"mg" => meta::get(turn, words),
            b"md" => meta::delete(turn, words),
            b"ma" => meta::count(turn, words),
            b"mn" => turn.line("MN"),
            b"me" => meta::debug(turn, words),
            b"incr" => storage::count(turn, words, false),
            b"decr" => storage::count(turn, words, true),
            b"touch" => storage::touch(turn, words),
            b"delete" => storage::delete(turn, words),
            b"flush_all" => return administration::flush_all(turn, words, self.flush.take()),
            b"version" => turn.line(&format!("VERSION {}", administration::VERSION)),
            b"verbosity" => administration::verbosity(turn, words),
            b"stats" => statistics::report(turn, words),
            b"quit" => self.closes = true,
            b"shutdown" => turn.line("ERROR: shutdown not enabled"),
            b"watch" => self.watch(words, turn),
            b"slabs" | b"lru" | b"lru_crawler" | b"cache_memlimit" => {
                administration::refuse(turn, name, words);
            }
            name if is_of_http(name, words) => (self.closes, self.is_foreign) = (true, true),
            _ => turn.line("ERROR"),
        }
        None
    }

    /// It is shown what clients do, and not listened to any more.
    fn watch(&mut self, words: Words<'_>, turn: &mut Turn<'_>) {
        self.watches = watch::watch(turn, words);
        // Who has changed users since they were looked up has not found it among those who watch, to be ended.
        if self.watches && turn.shared.users.version() != self.users_version {
            self.look_up(turn.client, turn.shared);
            self.closes |= !self.is_authenticated;
        }
    }

    /// The first thing that a client says where there is a password: a `set` whose data is a user's name and password. There are no rights to some
    /// commands or keys here: a user comes in who may do everything.
    fn authenticate(&mut self, request: Request<'_>, turn: &mut Turn<'_>) {
        const BAD_TOKEN: &str = "CLIENT_ERROR bad authentication token format";
        if matches!(request, Request::Line(name, words) if is_of_http(name, words)) {
            (self.closes, self.is_foreign) = (true, true);
            return;
        }
        let Request::Storage(Storage { mode: Mode::Set, data, .. }) = request else {
            self.closes = match request {
                Request::Refused(refusal) => refusal.closes,
                Request::Storage(storage) => storage.data == Data::TooLarge,
                Request::MetaSet(_, _, data) => data == Data::TooLarge,
                Request::Retrieval(_) | Request::Line(..) => false,
            };
            return turn.line("CLIENT_ERROR unauthenticated");
        };
        turn.tally.add(Count::Auths);
        let data = match data {
            Data::Whole(data) => data,
            Data::WrongEnd => return turn.line(BAD_CHUNK),
            Data::TooLarge => {
                self.closes = true;
                return turn.line(BAD_TOKEN);
            }
        };
        let Some(blank) = data.iter().position(|&byte| byte == b' ') else { return turn.line(BAD_TOKEN) };
        let (name, password) = (&data[..blank], &data[blank + 1..]);
        let user = turn.shared.users.authenticate(name, password);
        if let Some(user) = user.filter(|user| user.may_do_everything()) {
            self.become_user(&user.name, turn.client);
            self.is_authenticated = true;
            turn.line("STORED");
        } else {
            turn.tally.add(Count::AuthErrors);
            note_refused(turn, name);
            turn.line("CLIENT_ERROR authentication failure");
        }
    }

    /// Says in the binary protocol that it is not spoken here, once a header has come whose marks the answer needs.
    fn refuse_binary(&mut self, buffer: &[u8], output: &mut Vec<u8>) -> usize {
        const TEXT: &[u8] =
            b"This server speaks memcached's text protocol, meta commands included, and no binary protocol";
        let Some(header) = buffer.get(..BINARY_HEADER_BYTES) else { return 0 };
        let mut answer = [0_u8; BINARY_HEADER_BYTES];
        // The mark of an answer, the operation, "unknown command", the length of the text, and the client's own mark.
        (answer[0], answer[1], answer[7]) = (0x81, header[1], 0x81);
        answer[8..12].copy_from_slice(&(TEXT.len() as u32).to_be_bytes());
        answer[12..16].copy_from_slice(&header[12..16]);
        output.extend_from_slice(&answer);
        output.extend_from_slice(TEXT);
        self.closes = true;
        buffer.len()
    }
}

/// Puts a login that was refused into the log of such, where those of Redis clients are.
#[cold]
fn note_refused(turn: &Turn<'_>, user: &[u8]) {
    let mut refusal = refusals::Refusal::new(refusals::Reason::Auth, false, b"set", user, turn.now_ms);
    refusal.client = client::line_about(turn.client, turn.shared, turn.now_ms);
    turn.shared.refusals.note(refusal);
}

/// Whether a line is one of HTTP: a browser was made to send it, and nothing that follows is to be executed.
#[cold]
fn is_of_http(name: &[u8], words: Words<'_>) -> bool {
    name.eq_ignore_ascii_case(b"post")
        || name.eq_ignore_ascii_case(b"host:")
        || words.last_word().unwrap_or(name).starts_with(b"HTTP/")
}

/// Whether a pause holds this request back.
#[cold]
fn has_to_wait(request: &Request<'_>, turn: &Turn<'_>) -> bool {
    let pause = &turn.shared.pause;
    pause.left_ms(turn.shared.store.now_ms()) != 0 && (pause.is_of_all() || writes(request))
}

/// Whether a request changes what is stored.
fn writes(request: &Request<'_>) -> bool {
    match request {
        Request::Retrieval(retrieval) => retrieval.touches,
        Request::Storage(_) | Request::MetaSet(..) => true,
        Request::Line(b"mg", words) => meta::get_writes(*words),
        Request::Line(name, _) => {
            [&b"md"[..], b"ma", b"incr", b"decr", b"touch", b"delete", b"flush_all"].contains(name)
        }
        Request::Refused(_) => false,
    }
}

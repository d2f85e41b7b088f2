//! One turn of a client: what its commands may use while they are executed, and what all of them have in common.

use crate::attention::CHANGES;
use crate::clients::Client;
use crate::counts::{Count, Tally};
use crate::databases::stored_key;
use crate::events::Events;
use crate::events::classes::{GENERIC, STRING};
use crate::latency::Moment;
use crate::marks::{Displaced, Marks};
use crate::memcache::request::TOO_LARGE;
use crate::memcache::verbs::is_failure;
use crate::memcache::words::push_number;
use crate::redis::pipeline::{OUTPUT_BYTES_ENOUGH, STRANGERS_COMMANDS_PER_TURN};
use crate::shared::Shared;
use crate::statistics::LoopCounts;
use crate::watch_log::WatchLog;
use std::borrow::Cow;
use std::sync::Arc;
use thermae_core::{Current, Error, RecordMeta, Store, Update};

/// Times up to this many seconds count from now, others from 1970.
const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;
/// An expiry that has passed already.
const EXPIRED: u64 = 1;

/// Requests, and keys of lists, of one client before others get their turn: misses need not answer anything.
pub const STEPS_PER_TURN: usize = 16 << 10;
/// Steps that a request counts for of a client that has not said who it is: passwords are compared slowly, and others go first.
const STEPS_OF_A_STRANGER: usize = STEPS_PER_TURN / STRANGERS_COMMANDS_PER_TURN;

/// The key of database 0, as the store has it.
#[inline]
pub fn key_of(key: &[u8]) -> Cow<'_, [u8]> {
    stored_key(0, key)
}

/// What the commands of one turn use.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Whose turn it is, as others see it.
    pub client: &'a Arc<Client>,
    /// What all clients share.
    pub shared: &'a Shared,
    /// Where the answers go.
    pub output: &'a mut Vec<u8>,
    /// When the turn began, store clock.
    pub now_ms: u64,
    /// What is counted.
    pub tally: Tally,
    /// Where the loop counts.
    pub counts: &'a LoopCounts,
    /// What was done to items, to be told at the end of the turn.
    pub events: Events,
    /// What those are shown who watch, at the end of the turn or before.
    pub log: WatchLog,
    /// When the request began that comes next, where it is timed and known.
    pub began: Option<Moment>,
    /// Requests and keys before the turn is over.
    pub steps_left: usize,
}

impl<'a> Turn<'a> {
    /// One that begins now.
    pub fn new(
        client: &'a Arc<Client>,
        shared: &'a Shared,
        counts: &'a LoopCounts,
        output: &'a mut Vec<u8>,
    ) -> Self {
        let now_ms = shared.store.now_ms();
        let mut events = Events::default();
        events.want(shared.attention.wanted());
        let (tally, steps_left) = (Tally::default(), STEPS_PER_TURN);
        let log = WatchLog::default();
        Self { client, shared, output, now_ms, tally, counts, events, log, began: None, steps_left }
    }

    /// Requests that follow one another begin.
    #[inline]
    pub fn begin(&mut self) {
        self.began = self.shared.latency.is_tracked().then(Moment::now);
    }

    /// One of them ended, whose answer begins at `start`.
    #[inline]
    pub fn end(&mut self, verb: usize, start: usize) {
        let usage = self.counts.verbs.of(verb);
        usage.calls.add(1);
        if is_failure(&self.output[start..]) {
            usage.failed.add(1);
        }
        if let Some(began) = self.began {
            let ended = Moment::now();
            usage.note_time(ended.since(began));
            self.began = Some(ended);
        }
    }

    /// The store.
    #[inline]
    pub fn store(&self) -> &'a Store {
        &self.shared.store
    }

    /// What no record keeps.
    #[inline]
    pub fn marks(&self) -> &'a Marks {
        &self.shared.marks
    }

    /// Whether the client should take some of its answers first, or others should get their turn.
    #[inline]
    pub fn has_enough(&self) -> bool {
        self.output.len() >= OUTPUT_BYTES_ENOUGH || self.is_over()
    }

    /// Whether others should get their turn.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.steps_left == 0
    }

    /// One more request, or key of a list.
    #[inline]
    pub fn step(&mut self) {
        self.steps_left = self.steps_left.saturating_sub(1);
    }

    /// The same, of a client that has not said who it is.
    #[cold]
    pub fn step_of_a_stranger(&mut self) {
        self.steps_left = self.steps_left.saturating_sub(STEPS_OF_A_STRANGER);
    }

    /// Answers with a line.
    #[inline]
    pub fn line(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// The same, unless nobody waits for it.
    #[inline]
    pub fn line_unless(&mut self, is_silent: bool, text: &str) {
        if !is_silent {
            self.line(text);
        }
    }

    /// Appends a number.
    #[inline]
    pub fn number(&mut self, number: u64) {
        push_number(self.output, number);
    }

    /// What the store said, as a client is told. A line break in it would begin another answer.
    pub fn failure(&mut self, error: &Error) -> String {
        match error {
            Error::Full(_) => {
                self.tally.add(Count::StoreNoMemory);
                "SERVER_ERROR out of memory storing object".to_owned()
            }
            Error::ValueTooLarge(_) => {
                self.tally.add(Count::StoreTooLarge);
                TOO_LARGE.to_owned()
            }
            other => format!("SERVER_ERROR {other}").replace(['\r', '\n'], " "),
        }
    }

    /// When something expires, by what a client sent: store clock, 0 = never.
    #[inline]
    pub fn expires_at_ms(&self, expiry: i64) -> u64 {
        match expiry {
            0 => 0,
            ..0 => EXPIRED,
            1..=RELATIVE_SECONDS_MAX => self.now_ms + expiry.unsigned_abs() * 1000,
            _ => expiry.unsigned_abs().saturating_mul(1000),
        }
    }

    /// The store's clock, in seconds.
    #[inline]
    pub fn now_seconds(&self) -> u64 {
        self.now_ms / 1000
    }

    /// An item has changed: clients of Redis that keep copies are told.
    #[inline]
    pub fn changed(&self, key: &[u8]) {
        if self.shared.attention.wanted_now() & CHANGES != 0 {
            self.shared.invalidate([key], None);
        }
    }

    /// An item was stored, as this version and with this expiry: what was said of an earlier one is void.
    #[inline]
    pub fn stored(&mut self, key: &[u8], version: u64, expires_at_ms: u64) {
        self.changed(key);
        self.note("set", key);
        if expires_at_ms != 0 {
            self.note("expire", key);
        }
        self.marks().forget_before(key, version);
        self.marks().note(key, version, self.now_seconds(), false);
    }

    /// Notes what was done to an item, as Redis names it for a string.
    #[inline]
    pub fn note(&mut self, name: &'static str, key: &[u8]) {
        let class = if name == "set" { STRING } else { GENERIC };
        self.events.note(class, name, key);
    }

    /// Shows those who watch what there is for them, if it is much: a turn can be long.
    pub fn show_if_enough(&mut self) {
        if self.log.has_enough() {
            self.shared.show(&mut self.log);
        }
    }

    /// An item was read.
    #[inline]
    pub fn read(&mut self, key: &[u8], version: u64) {
        self.marks().note(key, version, self.now_seconds(), true);
    }

    /// Deletes an item. Whether it was there.
    ///
    /// # Errors
    /// Those of the store.
    #[inline]
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        let marked = self.marks().version(key);
        let was_present = self.store().delete(key)?;
        if let Some(version) = marked {
            self.marks().forget_through(key, version);
        }
        self.changed(key);
        if was_present {
            self.note("del", key);
        }
        Ok(was_present)
    }

    /// A stale item whose mark had to make room is deleted.
    ///
    /// # Errors
    /// Those of the store.
    pub fn displace(&mut self, displaced: Option<Displaced>) -> Result<(), Error> {
        let Some(Displaced { key, version }) = displaced else { return Ok(()) };
        let mut is_same = false;
        self.store().update(&key, &mut |current: Option<Current<'_>>| {
            is_same = current.is_some_and(|current| current.meta.version == version);
            Ok(if is_same { Update::Delete } else { Update::Keep })
        })?;
        self.changed(&key);
        if is_same {
            self.note("del", &key);
        }
        Ok(())
    }

    /// Gives an item another expiry, and all else that is known of it to its new version. Returns that; `None` where there is no item.
    ///
    /// # Errors
    /// Those of the store.
    pub fn touch(&mut self, key: &[u8], expiry: i64) -> Result<Option<RecordMeta>, Error> {
        let expires_at_ms = self.expires_at_ms(expiry);
        self.touch_if(key, Some(expires_at_ms), |_| true).map(Option::flatten)
    }

    /// The same, where `agrees` does: `Some(None)` where it does not, `None` where there is no item. Without an expiry the item keeps its own.
    ///
    /// # Errors
    /// Those of the store.
    pub fn touch_if(
        &mut self,
        key: &[u8],
        expires_at_ms: Option<u64>,
        agrees: impl Fn(&RecordMeta) -> bool,
    ) -> Result<Option<Option<RecordMeta>>, Error> {
        let renewed = self.renew_if(key, expires_at_ms, agrees)?;
        if let Some(Some((before, after))) = renewed {
            self.marks().carry(key, before, after.version);
        }
        Ok(renewed.map(|renewed| renewed.map(|(_, after)| after)))
    }

    /// The same, but that nothing is carried to the new version. Returns the old version beside what is known of the new one.
    ///
    /// # Errors
    /// Those of the store.
    pub fn renew_if(
        &mut self,
        key: &[u8],
        expires_at_ms: Option<u64>,
        agrees: impl Fn(&RecordMeta) -> bool,
    ) -> Result<Option<Option<(u64, RecordMeta)>>, Error> {
        let mut before = None;
        let version = self.store().update(key, &mut |current| {
            before = current.map(|current| current.meta);
            Ok(match current {
                Some(Current { meta, value }) if agrees(&meta) => Update::Set {
                    value: value.to_vec(),
                    encoding: meta.encoding,
                    expires_at_ms: expires_at_ms.unwrap_or(meta.expires_at_ms),
                    flags: meta.flags,
                },
                _ => Update::Keep,
            })
        })?;
        let Some(before) = before else { return Ok(None) };
        let Some(version) = version else { return Ok(Some(None)) };
        self.changed(key);
        match expires_at_ms {
            Some(0) if before.expires_at_ms != 0 => self.note("persist", key),
            None | Some(0) => {}
            Some(expires_at_ms) if expires_at_ms <= self.now_ms => self.note("del", key),
            Some(_) => self.note("expire", key),
        }
        let expires_at_ms = expires_at_ms.unwrap_or(before.expires_at_ms);
        Ok(Some(Some((before.version, RecordMeta { version, expires_at_ms, ..before }))))
    }
}

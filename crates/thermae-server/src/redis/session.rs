//! What the server knows of one client.

use crate::attention::CHANGES;
use crate::clients::{self, Client, Place, marks};
use crate::emptying::Emptying;
use crate::latency::Moment;
use crate::redis::request::OwnedArguments;
use crate::redis::table::Entry;
use crate::redis::tracking::{self, Caching};
use crate::shared::Shared;
use crate::space::Watched;
use crate::statistics::LoopCounts;
use crate::users::{DEFAULT, User};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether replies are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// Not that of the next command.
    SkipNext,
    /// Not that of this command, the one after `SkipNext`.
    Skip,
}

/// Commands that wait for EXEC, each as its arguments.
#[derive(Debug)]
pub struct Queue {
    /// Whose rights the client had at MULTI.
    pub user: Arc<User>,
    /// In order.
    pub commands: Vec<OwnedArguments>,
    /// Bytes that they take.
    pub bytes: usize,
    /// One of them could not be queued, so that none may be executed.
    pub is_refused: bool,
}

impl Queue {
    /// Of a client whose rights are those of a user.
    pub fn new(user: Arc<User>) -> Self {
        Self { user, commands: Vec::new(), bytes: 0, is_refused: false }
    }
}

/// A client of the Redis protocol.
#[derive(Debug)]
pub struct Session {
    /// Its number, never given twice by a server.
    pub id: u64,
    /// What others see of it.
    pub client: Arc<Client>,
    /// The database that it selected.
    pub database: u8,
    /// Whether it speaks RESP3.
    pub is_resp3: bool,
    /// Whether it said who it is, or need not.
    pub is_authenticated: bool,
    /// Whose rights it has.
    pub user: Arc<User>,
    /// Whether that user may do everything.
    pub is_unlimited: bool,
    /// The count of changes of users that `user` is of; 0: it was not looked up yet.
    users_version: u64,
    /// Whether all of its commands may just be run; see [`Session::settle`].
    pub is_plain: bool,
    /// Whether replies are sent.
    pub reply_mode: ReplyMode,
    /// Set by a command after whose reply the connection is closed.
    pub closes: bool,
    /// Its next command waits for the end of a pause.
    pub is_paused: bool,
    /// Its last command took long: others are served before its next one.
    pub ends_turn: bool,
    /// Is to be kept when clients have to go.
    pub no_evict: bool,
    /// Is shown every command.
    pub monitors: bool,
    /// The last command that could have been executed.
    pub last_command: Option<&'static Entry>,
    /// When the command began that comes next, where it is known.
    pub began: Option<Moment>,
    /// What its last command has still to do: it is called again in the next turn, before anything else.
    pub emptying: Option<Box<Emptying>>,
    /// After MULTI.
    pub queue: Option<Box<Queue>>,
    /// Stored keys under WATCH, with their versions then.
    pub watched: HashMap<Vec<u8>, Watched>,
    /// With CLIENT TRACKING.
    pub tracking: Option<Caching>,
    /// Bytes of these keys; means nothing where there are none.
    pub watched_bytes: usize,
}

/// Who a client is: what it keeps when a transaction in which it said so does not happen.
#[derive(Debug)]
pub struct Identity {
    name: Vec<u8>,
    user: Arc<User>,
    users_version: u64,
    is_authenticated: bool,
    no_evict: bool,
}

impl Session {
    /// Who it is now.
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.client.name(),
            user: Arc::clone(&self.user),
            users_version: self.users_version,
            is_authenticated: self.is_authenticated,
            no_evict: self.no_evict,
        }
    }

    /// It is again who it was; one that is to be closed, its user being no more, stays nobody.
    pub fn become_again(&mut self, identity: &Identity) {
        if self.closes {
            return;
        }
        self.client.rename(&identity.name);
        self.is_authenticated = identity.is_authenticated;
        self.no_evict = identity.no_evict;
        self.become_user(Arc::clone(&identity.user), identity.users_version);
    }

    /// A client that has just come, and that no loop serves.
    pub fn new(
        id: u64,
        address: String,
        local_address: String,
        is_authenticated: bool,
        connected_at_ms: u64,
    ) -> Self {
        let client = Client::new(id, address, local_address, Place::default(), connected_at_ms);
        Self::of(Arc::new(client), is_authenticated)
    }

    /// The session of a client.
    pub fn of(client: Arc<Client>, is_authenticated: bool) -> Self {
        Self {
            id: client.id,
            client,
            database: 0,
            is_resp3: false,
            is_authenticated,
            user: User::everybody(),
            is_unlimited: true,
            users_version: 0,
            is_plain: is_authenticated,
            reply_mode: ReplyMode::On,
            closes: false,
            is_paused: false,
            ends_turn: false,
            no_evict: false,
            monitors: false,
            last_command: None,
            began: None,
            emptying: None,
            queue: None,
            watched: HashMap::new(),
            tracking: None,
            watched_bytes: 0,
        }
    }

    /// Decides whether its commands have to be looked at before they are run. After each change of what that rests on.
    pub fn settle(&mut self) {
        self.is_plain = self.is_authenticated
            && self.is_unlimited
            && self.user.name == DEFAULT
            && self.tracking.is_none()
            && !self.monitors
            && !self.only_listens();
    }

    /// It has the rights of this user from now on. The count of changes is that from before the user was looked up.
    pub fn become_user(&mut self, user: Arc<User>, users_version: u64) {
        self.is_unlimited = user.may_do_everything();
        if self.user.name != user.name {
            self.client.become_user(&user.name);
        }
        (self.user, self.users_version) = (user, users_version);
        self.settle();
    }

    /// Looks up what its user may do, where users were changed since. One whose user is no more is closed; whether it may go on.
    pub fn refresh(&mut self, shared: &Shared) -> bool {
        let version = shared.users.version();
        if version == self.users_version {
            return true;
        }
        let user = shared.users.get(&self.user.name).filter(|_| !self.client.is_killed());
        let may_go_on = user.is_some();
        if !may_go_on {
            self.closes = true;
            self.is_authenticated = false;
        }
        self.become_user(user.unwrap_or_else(|| shared.users.default_user()), version);
        may_go_on
    }

    /// Puts it into the state of a client that has just come and said nothing.
    pub fn become_nobody(&mut self, shared: &Shared) {
        let version = shared.users.version();
        let user = shared.users.default_user();
        self.is_authenticated = user.is_open();
        self.become_user(user, version);
    }

    /// Whether it is subscribed to something in a version of the protocol in which messages can't be told from replies.
    #[inline]
    pub fn only_listens(&self) -> bool {
        !self.is_resp3 && self.client.is_subscribed()
    }

    /// Those of the loop that serves it.
    #[inline]
    pub fn counts<'a>(&self, shared: &'a Shared) -> &'a LoopCounts {
        shared.statistics.of_loop(self.client.place.event_loop)
    }

    /// The client is gone, or begins anew: nobody is to reach it any more.
    pub fn leave(&mut self, shared: &Shared) {
        if self.emptying.take().is_some() && shared.attention.wanted_now() & CHANGES != 0 {
            shared.invalidate_all();
        }
        tracking::turn_off(self, shared);
        shared.channels.leave(&self.client, &shared.attention);
        if std::mem::take(&mut self.monitors) {
            shared.monitors.remove(&self.client, &shared.attention);
        }
    }

    /// Bytes of the commands that wait for EXEC and of the keys under WATCH, with what keeps them.
    #[inline]
    fn transaction_bytes(&self) -> usize {
        let queued_bytes = self.queue.as_ref().map_or(0, |queue| queue.bytes);
        if self.watched.is_empty() {
            return queued_bytes;
        }
        queued_bytes + self.watched_bytes + self.watched.capacity() * size_of::<(Vec<u8>, Watched)>()
    }

    /// Lets others see what the client is at.
    pub fn publish(&self) {
        let flag = |is_so, mark| if is_so { mark } else { 0 };
        let flags = flag(self.is_resp3, marks::RESP3)
            | flag(self.no_evict, marks::NO_EVICT)
            | flag(self.queue.is_some(), marks::IN_TRANSACTION)
            | flag(self.closes, marks::CLOSES)
            | flag(self.monitors, marks::MONITORS);
        let queued = self.queue.as_ref().map_or(-1, |queue| queue.commands.len() as i64);
        let transaction_bytes = self.transaction_bytes();
        let command = self.last_command.map_or(clients::NO_COMMAND, |command| command.number);
        let client = &self.client;
        client.database.store(u32::from(self.database), Ordering::Relaxed);
        client.flags.store(flags, Ordering::Relaxed);
        client.queued.store(queued, Ordering::Relaxed);
        client.transaction_bytes.store(transaction_bytes, Ordering::Relaxed);
        client.command.store(command, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use crate::redis::test_support::TestServer;

    #[test]
    fn a_client_is_again_who_it_was() {
        let mut server = TestServer::new();
        server.line("ACL SETUSER other on nopass +@all ~*");
        let mut session = server.client(7);
        let (before, everybody) = (session.identity(), session.user.name.clone());
        let other = server.shared().users.get(b"other").unwrap();
        session.become_user(other, server.shared().users.version());
        session.client.rename(b"new");
        session.no_evict = true;
        session.become_again(&before);
        assert_eq!(
            (session.user.name.clone(), session.client.user(), session.client.name(), session.no_evict),
            (everybody.clone(), everybody, Vec::new(), false)
        );
        // One whose user is gone does not come back by that.
        (session.closes, session.is_authenticated) = (true, false);
        session.become_again(&before);
        assert!(!session.is_authenticated);
    }
}

//! All that a read brought: parsed in one pass, executed in place, answered in one piece.

use crate::redis::execute::{execute, find};
use crate::redis::reply::Reply;
use crate::redis::request::{Arguments, Batch, Limits, Partial, parse};
use crate::redis::session::Session;
use crate::redis::table::flags;
use crate::shared::Shared;
use crate::space::Space;
use thermae_core::Store;

/// Commands looked at together, so that their cache misses overlap.
const BATCH_COMMANDS: usize = 64;
/// Batches of one client before others get their turn: more than one read holds, unless it ends a long argument.
const BATCHES_PER_TURN: usize = 256;
/// Commands of one client that has not said who it is, before others get their turn.
pub const STRANGERS_COMMANDS_PER_TURN: usize = 32;
/// Output after which a client's next commands wait until it has read some.
pub const OUTPUT_BYTES_ENOUGH: usize = 256 << 10;

/// A connection's side of the protocol.
#[derive(Debug)]
pub struct Pipeline {
    /// The client.
    pub session: Session,
    /// Its client speaks another protocol.
    pub is_foreign: bool,
    partial: Option<Box<Partial>>,
}

impl Pipeline {
    /// Of a new connection.
    pub fn new(session: Session) -> Self {
        Self { session, is_foreign: false, partial: None }
    }

    /// Executes what is whole in `buffer`, which begins where a command begins, until there is enough output. Returns how many bytes it is done
    /// with.
    pub fn process(
        &mut self,
        buffer: &[u8],
        argument_bytes_max: u64,
        batch: &mut Batch,
        shared: &Shared,
        output: &mut Vec<u8>,
    ) -> usize {
        let mut space = Space::new(&shared.store);
        (self.session.is_paused, self.session.ends_turn) = (false, false);
        let mut done = 0;
        let mut batches_left =
            if self.session.is_authenticated { BATCHES_PER_TURN } else { STRANGERS_COMMANDS_PER_TURN };
        loop {
            batch.clear();
            let limits = Limits { is_authenticated: self.session.is_authenticated, argument_bytes_max };
            // What a stranger may send depends on the command before: it may be AUTH.
            let commands_max = if limits.is_authenticated { BATCH_COMMANDS } else { 1 };
            let (consumed, result) = parse(&buffer[done..], commands_max, limits, &mut self.partial, batch);
            if batch.len() > 1 {
                prefetch(batch, &buffer[done..], &self.session, &shared.store);
            }
            // Whatever ended the last batch, this one was parsed since; but what it goes on with began before.
            self.session.began = self.session.emptying.as_ref().and_then(|emptying| emptying.began);
            let begin = done;
            let mut executed = 0;
            for index in 0..batch.len() {
                let (arguments, end) = batch.command(index, &buffer[begin..]);
                if shared.pause.may_be_on() && has_to_wait(arguments, &self.session, shared) {
                    self.session.is_paused = true;
                    break;
                }
                let before = std::mem::replace(&mut done, begin + end);
                if is_for_another_protocol(arguments) {
                    (self.session.closes, self.is_foreign) = (true, true);
                    return done;
                }
                execute(arguments, &mut self.session, &mut space, shared, output);
                executed += 1;
                if self.session.closes || self.session.ends_turn || output.len() >= OUTPUT_BYTES_ENOUGH {
                    if self.session.emptying.is_some() {
                        (done, executed) = (before, index);
                    }
                    break;
                }
            }
            if executed < batch.len() {
                // What was found of a command after those is found again.
                self.partial = None;
                return done;
            }
            // Beyond the last command: what was consumed may end in lines that are none, and what is known of the next command counts from there.
            done = begin + consumed;
            if self.session.closes {
                return done;
            }
            if let Err(error) = result {
                Reply::new(output, self.session.is_resp3).error(&format!("ERR Protocol error: {}", error.0));
                self.session.closes = true;
                return buffer.len();
            }
            if batch.len() < commands_max || self.session.ends_turn || output.len() >= OUTPUT_BYTES_ENOUGH {
                return done;
            }
            batches_left -= 1;
            if batches_left == 0 {
                self.session.ends_turn = true;
                return done;
            }
        }
    }
}

/// Whether a browser was made to send this: nothing in it is to be executed.
#[inline]
fn is_for_another_protocol(arguments: Arguments<'_>) -> bool {
    let name = arguments.at(0);
    (name.len() == 4 || name.len() == 5)
        && (name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:"))
}

/// Whether a pause holds this command back.
#[cold]
fn has_to_wait(arguments: Arguments<'_>, session: &Session, shared: &Shared) -> bool {
    if shared.pause.left_ms(shared.store.now_ms()) == 0 {
        return false;
    }
    let writes =
        |arguments| find(arguments).is_ok_and(|command| command.has(flags::WRITE | flags::MAY_REPLICATE));
    let queue = session.queue.as_ref().filter(|_| arguments.at(0).eq_ignore_ascii_case(b"exec"));
    shared.pause.is_of_all()
        || writes(arguments)
        || queue.is_some_and(|queue| queue.commands.iter().any(|queued| writes(queued.arguments())))
}

/// Has the processor fetch where the keys of a batch are looked for.
fn prefetch(batch: &Batch, buffer: &[u8], session: &Session, store: &Store) {
    if session.database != 0 {
        return;
    }
    let commands = (0..batch.len()).map(|index| batch.command(index, buffer).0);
    store.prefetch(commands.filter(|arguments| arguments.len() > 1).map(|arguments| arguments.at(1)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::test_support::TestServer;

    /// Replies in each turn, and what is left of the input.
    fn turns(server: &TestServer, pipeline: &mut Pipeline, mut input: &[u8]) -> Vec<usize> {
        let mut replies = Vec::new();
        while !input.is_empty() {
            let mut output = Vec::new();
            let done =
                pipeline.process(input, 512 << 20, &mut Batch::default(), server.shared(), &mut output);
            input = &input[done..];
            replies.push(output.iter().filter(|&&byte| byte == b'\n').count());
            assert_eq!(pipeline.session.ends_turn, !input.is_empty());
        }
        replies
    }

    fn pipeline(server: &TestServer, is_authenticated: bool) -> Pipeline {
        let now_ms = server.store().now_ms();
        Pipeline::new(Session::new(2, "test".to_owned(), "test".to_owned(), is_authenticated, now_ms))
    }

    #[test]
    fn a_command_that_took_long_ends_the_turn() {
        let mut server = TestServer::new();
        // However busy the machine is.
        server.line("CONFIG SET slowlog-log-slower-than -1");
        let mut pipeline = pipeline(&server, true);
        assert_eq!(turns(&server, &mut pipeline, b"PING\nDEBUG SLEEP 0.001\nPING\nPING\n"), [2, 2]);
        // Long enough for any processor, and a PING is far from it.
        server.line("CONFIG SET slowlog-log-slower-than 200");
        server.line("SETRANGE a 7000000 x");
        assert_eq!(turns(&server, &mut pipeline, b"BITCOUNT a\nPING\nPING\n"), [1, 2]);
    }

    /// 632,006 keys once had all other clients wait for 0.9 s.
    #[test]
    fn a_flush_takes_turns_and_is_one_command() {
        let mut server = TestServer::new();
        server.line("CONFIG SET slowlog-log-slower-than 0");
        for number in 0..14_000_u32 {
            server.line(&format!("SET key:{number} 1"));
        }
        server.line("SLOWLOG RESET");
        let mut pipeline = pipeline(&server, true);
        let mut batch = Batch::default();
        let mut input = &b"CLIENT REPLY SKIP\nFLUSHALL\nSET b 2\nGET b\nFLUSHDB\nEXISTS b key:1\n"[..];
        let (mut output, mut suspended, mut is_resumed) = (Vec::new(), 0, false);
        while !input.is_empty() {
            let done = pipeline.process(input, 512 << 20, &mut batch, server.shared(), &mut output);
            input = &input[done..];
            if pipeline.session.emptying.is_some() {
                assert!(pipeline.session.ends_turn && output.is_empty() && input.starts_with(b"FLUSHALL"));
                suspended += 1;
            }
            if suspended == 2 && !is_resumed {
                // Nothing is deleted in a pause.
                let now_ms = server.store().now_ms();
                server.shared().pause.begin(now_ms, now_ms + 100_000, false);
                let count = server.store().len().unwrap();
                assert_eq!(pipeline.process(input, 512 << 20, &mut batch, server.shared(), &mut output), 0);
                assert!(pipeline.session.is_paused && pipeline.session.emptying.is_some());
                assert_eq!(server.store().len().unwrap(), count);
                server.shared().pause.end();
                is_resumed = true;
            }
        }
        assert!(suspended > 2, "{suspended}");
        assert_eq!(String::from_utf8(output).unwrap(), "+OK\r\n$1\r\n2\r\n+OK\r\n:0\r\n");
        assert!(server.line("INFO commandstats").contains("cmdstat_flushall:calls=1,"));
        let slow = server.line("SLOWLOG GET 100");
        assert_eq!(slow.matches("\r\nFLUSHALL\r\n").count(), 1, "{slow}");
    }

    #[test]
    fn so_many_commands_end_the_turn() {
        let mut server = TestServer::new();
        server.line("CONFIG SET slowlog-log-slower-than -1");
        let enough = BATCHES_PER_TURN * BATCH_COMMANDS;
        let sent = b"PING\n".repeat(2 * enough + 1);
        assert_eq!(turns(&server, &mut pipeline(&server, true), &sent), [enough, enough, 1]);
        // One after the other, each with the password looked for anew.
        let sent = b"PING\n".repeat(STRANGERS_COMMANDS_PER_TURN + 1);
        server.shared().set_default_password("secret");
        assert_eq!(turns(&server, &mut pipeline(&server, false), &sent), [STRANGERS_COMMANDS_PER_TURN, 1]);
    }
}

//! ACL as clients see it; texts are those of redis-server 7.0.15.

use super::*;
use crate::config::Config;
use crate::redis::test_support::TestServer;
use crate::users::User;

const DENIED_GET: &str = "-NOPERM this user has no permissions to run the 'get' command\r\n";
const DENIED_KEY: &str =
    "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";

#[test]
fn replies_are_those_of_redis() {
    let mut server = TestServer::new();
    let wrong = |name: &str| {
        format!("-ERR unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP.\r\n")
    };
    let bits = "-ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096\r\n";
    server.check(&[
        ("ACL WHOAMI", "$7\r\ndefault\r\n"),
        ("ACL USERS", "*1\r\n$7\r\ndefault\r\n"),
        ("ACL LIST", "*1\r\n$34\r\nuser default on nopass ~* &* +@all\r\n"),
        ("ACL CAT x y", &wrong("CAT")),
        ("ACL CAT foo", "-ERR Unknown category 'foo'\r\n"),
        ("ACL GENPASS 0", bits),
        ("ACL GENPASS 4097", bits),
        ("ACL GENPASS x", "-ERR value is not an integer or out of range\r\n"),
        ("ACL GENPASS 5 6", &wrong("GENPASS")),
        ("ACL LOG x", "-ERR value is not an integer or out of range\r\n"),
        ("ACL LOG 1 2", &wrong("LOG")),
        ("ACL LOG", "*0\r\n"),
        ("ACL LOG RESET", "+OK\r\n"),
        ("ACL FOO", "-ERR unknown subcommand 'FOO'. Try ACL HELP.\r\n"),
        ("ACL DELUSER default", "-ERR The 'default' user cannot be removed\r\n"),
        ("ACL DELUSER nobody", ":0\r\n"),
        ("ACL GETUSER nobody", "$-1\r\n"),
        ("ACL SETUSER \"a b\"", "-ERR Usernames can't contain spaces or null characters\r\n"),
        ("ACL SETUSER a (~a", "-ERR Unmatched parenthesis in acl selector starting at '(~a'.\r\n"),
        ("ACL SETUSER a on bogus", "-ERR Error in ACL SETUSER modifier 'bogus': Syntax error\r\n"),
        ("ACL GETUSER a", "$-1\r\n"),
        ("ACL SETUSER a on >pw ~k +get (~s +set)", "+OK\r\n"),
        ("ACL USERS", "*2\r\n$1\r\na\r\n$7\r\ndefault\r\n"),
        (
            "ACL GETUSER a",
            "*12\r\n$5\r\nflags\r\n*1\r\n$2\r\non\r\n$9\r\npasswords\r\n*1\r\n$64\r\n30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4\r\n\
             $8\r\ncommands\r\n$10\r\n-@all +get\r\n$4\r\nkeys\r\n$2\r\n~k\r\n$8\r\nchannels\r\n$0\r\n\r\n$9\r\nselectors\r\n*1\r\n*6\r\n\
             $8\r\ncommands\r\n$10\r\n-@all +set\r\n$4\r\nkeys\r\n$2\r\n~s\r\n$8\r\nchannels\r\n$0\r\n\r\n",
        ),
        ("ACL DRYRUN nobody get a", "-ERR User 'nobody' not found\r\n"),
        ("ACL DRYRUN a nosuch a", "-ERR Command 'nosuch' not found\r\n"),
        ("ACL DRYRUN a config nosuch", "-ERR Command 'config' not found\r\n"),
        ("ACL DRYRUN a get", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("ACL DRYRUN a get k", "+OK\r\n"),
        ("ACL DRYRUN a set s 1", "+OK\r\n"),
        ("ACL DRYRUN a get s", "$50\r\nThis user has no permissions to access the 's' key\r\n"),
        ("ACL DRYRUN a config get x", "$60\r\nThis user has no permissions to run the 'config|get' command\r\n"),
    ]);
    let length = |line: &str, server: &mut TestServer| server.line(line).split("\r\n").nth(1).unwrap().len();
    assert_eq!([length("ACL GENPASS", &mut server), length("ACL GENPASS 5", &mut server)], [64, 2]);
    assert_ne!(server.line("ACL GENPASS"), server.line("ACL GENPASS"));
    assert!(
        server.line("ACL SAVE").starts_with("-ERR This Redis instance is not configured to use an ACL file.")
    );
}

#[test]
fn a_user_does_what_it_may() {
    let mut server = TestServer::new();
    server.check(&[
        ("ACL SETUSER a on >pw %R~r* %W~w* ~b +get +set +rename +mget +sort +acl|whoami +multi +exec", "+OK\r\n"),
        ("AUTH a wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("ACL WHOAMI", "$7\r\ndefault\r\n"),
        ("AUTH a pw", "+OK\r\n"),
        ("ACL WHOAMI", "$1\r\na\r\n"),
        ("SET w 1", "+OK\r\n"),
        ("SET w 1 GET", DENIED_KEY),
        ("SET r 1", DENIED_KEY),
        ("GET r", "$-1\r\n"),
        ("GET w", DENIED_KEY),
        ("MGET r x", DENIED_KEY),
        ("RENAME r w", DENIED_KEY),
        ("RENAME b w", "-ERR no such key\r\n"),
        ("DEL b", "-NOPERM this user has no permissions to run the 'del' command\r\n"),
        ("CONFIG GET x", "-NOPERM this user has no permissions to run the 'config|get' command\r\n"),
        ("SORT r BY x*", "-ERR BY option of SORT denied due to insufficient ACL permissions.\r\n"),
        ("SORT r BY nosort", "*0\r\n"),
        ("SORT r GET #", "-ERR GET option of SORT denied due to insufficient ACL permissions.\r\n"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: \r\n"),
        ("HELLO 2 AUTH default x", "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"),
        ("ACL WHOAMI", "$7\r\ndefault\r\n"),
        ("DEL b", ":0\r\n"),
    ]);
    assert!(server.session.is_plain);
}

#[test]
fn a_default_that_is_restricted_is_so_at_once() {
    let mut server = TestServer::new();
    assert!(server.session.is_plain);
    // As if another client had done it.
    let mut default = User::clone(&server.shared().users.default_user());
    acl_rules::apply(&mut default, b"-get").unwrap();
    let restricted = Arc::new(default);
    server.shared().change_users(|accounts| accounts.insert(DEFAULT.to_vec(), restricted));
    assert!(server.session.is_plain);
    server.check(&[("GET a", DENIED_GET), ("SET a 1", "+OK\r\n"), ("ACL SETUSER default +@all", "+OK\r\n")]);
    assert!(server.session.is_plain && server.shared().attention.wanted() == 0);
    server.check(&[("GET a", "$1\r\n1\r\n"), ("ACL SETUSER default -get", "+OK\r\n"), ("GET a", DENIED_GET)]);
}

#[test]
fn transactions_are_checked_twice() {
    let mut server = TestServer::new();
    let changed = "-NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer \
                   allowed for the following reason: ";
    server.check(&[
        ("ACL SETUSER default -del", "+OK\r\n"),
        ("MULTI", "+OK\r\n"),
        ("DEL a", "-NOPERM this user has no permissions to run the 'del' command\r\n"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"),
        ("MULTI", "+OK\r\n"),
        ("SET a 1", "+QUEUED\r\n"),
        ("ACL SETUSER default -get resetkeys ~b", "+QUEUED\r\n"),
        ("GET b", "+QUEUED\r\n"),
        ("SET a 2", "+QUEUED\r\n"),
        ("SET b 2", "+QUEUED\r\n"),
    ]);
    assert_eq!(
        server.line("EXEC"),
        format!(
            "*5\r\n+OK\r\n+OK\r\n{changed}no permission to execute the command or subcommand\r\n{changed}no permission to touch the specified keys\r\n+OK\r\n"
        )
    );
    server.check(&[
        ("ACL SETUSER default -exec", "+OK\r\n"),
        ("MULTI", "+OK\r\n"),
        (
            "EXEC",
            "-EXECABORT Transaction discarded because of: NOPERM this user has no permissions to run the 'exec' command\r\n",
        ),
    ]);
    let contexts: Vec<_> = server
        .shared()
        .refusals
        .latest(10)
        .iter()
        .map(|entry| (entry.is_in_transaction, entry.object.clone()))
        .collect();
    let expected: [(bool, &[u8]); 4] = [(true, b"exec"), (true, b"a"), (true, b"get"), (true, b"del")];
    assert_eq!(contexts, expected.map(|(is_in_transaction, object)| (is_in_transaction, object.to_vec())));
}

/// What its user could do must not become what `default` can do.
#[test]
fn a_client_whose_user_is_deleted_has_no_rights_left() {
    let mut server = TestServer::new();
    server.check(&[
        ("CONFIG SET requirepass secret", "+OK\r\n"),
        ("ACL SETUSER a on nopass ~a +get +set +multi +exec +acl|deluser", "+OK\r\n"),
        ("AUTH a x", "+OK\r\n"),
        ("MULTI", "+OK\r\n"),
        ("ACL DELUSER a", "+QUEUED\r\n"),
        ("GET a", "+QUEUED\r\n"),
        ("GET a", "+QUEUED\r\n"),
    ]);
    let reply = server.line("EXEC");
    assert!(
        reply.starts_with("*3\r\n:1\r\n-NOPERM ACLs rules changed") && reply.matches("-NOPERM").count() == 2,
        "{reply}"
    );
    assert!(server.session.closes && !server.session.is_plain);
    assert_eq!(server.line("GET a"), "-NOAUTH Authentication required.\r\n");
}

#[test]
fn the_password_of_the_configuration_is_that_of_default() {
    let mut server = TestServer::new();
    let password = |server: &mut TestServer| server.line("CONFIG GET requirepass");
    assert_eq!(server.line("CONFIG SET requirepass secret"), "+OK\r\n");
    let list = server.line("ACL LIST");
    assert!(
        list.contains(
            "user default on #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~* &* +@all"
        ),
        "{list}"
    );
    server.line("ACL SETUSER default >other");
    assert_eq!(password(&mut server), "*2\r\n$11\r\nrequirepass\r\n$6\r\nsecret\r\n");
    server.line("ACL SETUSER default <secret");
    assert_eq!(password(&mut server), "*2\r\n$11\r\nrequirepass\r\n$0\r\n\r\n");
    assert!(server.line("AUTH secret").starts_with("-WRONGPASS"));
    assert_eq!(server.line("AUTH other"), "+OK\r\n");
    server.line("CONFIG SET requirepass \"\"");
    assert!(server.line("ACL LIST").contains("user default on nopass ~* &* +@all"));
    assert!(server.line("AUTH other").starts_with("-ERR AUTH <password> called without any password"));
}

#[test]
fn strangers_are_noted_once() {
    let mut server = TestServer::new();
    for _ in 0..3 {
        assert!(server.line("AUTH nobody x").starts_with("-WRONGPASS"));
    }
    let log = server.line("ACL LOG");
    assert!(
        log.starts_with(
            "*1\r\n*14\r\n$5\r\ncount\r\n:3\r\n$6\r\nreason\r\n$4\r\nauth\r\n$7\r\ncontext\r\n$8\r\ntoplevel\r\n$6\r\nobject\r\n$4\r\nAUTH\r\n\
             $8\r\nusername\r\n$6\r\nnobody\r\n$11\r\nage-seconds\r\n"
        ),
        "{log}"
    );
    assert!(
        log.contains("\r\n$11\r\nclient-info\r\n")
            && log.contains(" cmd=auth user=default redir=-1 resp=2\r\n"),
        "{log}"
    );
    assert_eq!(server.line("CONFIG SET acllog-max-len 0"), "+OK\r\n");
    server.check(&[("ACL LOG 0", "*0\r\n"), ("ACL LOG -5", "*0\r\n")]);
    server.line("AUTH somebody x");
    assert_eq!(server.line("ACL LOG"), "*0\r\n");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "files for tests")]
fn a_file_replaces_all_users_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.acl");
    let mut server = TestServer::new();
    *server.shared().config.write().unwrap() = Config { acl_file: Some(path.clone()), ..Config::default() };
    server.check(&[
        ("CONFIG SET requirepass secret", "+OK\r\n"),
        ("ACL SETUSER a on +get", "+OK\r\n"),
        ("ACL SAVE", "+OK\r\n"),
        ("ACL DELUSER a", ":1\r\n"),
        ("ACL SETUSER b", "+OK\r\n"),
        ("ACL LOAD", "+OK\r\n"),
        ("ACL USERS", "*2\r\n$1\r\na\r\n$7\r\ndefault\r\n"),
    ]);
    std::fs::write(&path, "user c on\nuser d bogus\n").unwrap();
    let reply = server.line("ACL LOAD");
    assert!(reply.contains("users.acl:2: Syntax error. WARNING: ACL errors detected"), "{reply}");
    assert_eq!(server.line("ACL USERS"), "*2\r\n$1\r\na\r\n$7\r\ndefault\r\n");
    // A file that says nothing of `default` leaves it as it is.
    std::fs::write(&path, "user c on\n").unwrap();
    assert_eq!(server.line("ACL LOAD"), "+OK\r\n");
    assert!(
        server.shared().users.default_user().accepts(b"secret")
            && !server.shared().users.default_user().is_open()
    );
    assert_eq!(server.line("CONFIG GET requirepass"), "*2\r\n$11\r\nrequirepass\r\n$6\r\nsecret\r\n");
}

#[test]
fn users_are_bounded() {
    let mut server = TestServer::new();
    server.shared().change_users(|accounts| {
        for number in 0..USERS_MAX - 1 {
            let name = format!("u{number}");
            accounts.insert(name.clone().into_bytes(), Arc::new(User::new(name.as_bytes())));
        }
    });
    assert_eq!(
        server.line("ACL SETUSER more"),
        "-ERR there are at most 4096 users: delete one with ACL DELUSER\r\n"
    );
    assert_eq!(server.line("ACL SETUSER u1 on"), "+OK\r\n");
}

/// Each key was compared with each pattern as if that were all that the command compares.
#[test]
fn all_keys_of_a_command_are_compared_within_one_budget() {
    let mut server = TestServer::new();
    // Some eight million steps each: two are within the budget, and a third is not.
    let pattern = format!("*{}b", "a".repeat(1000));
    let key = format!("{}b", "a".repeat(9000));
    server.check(&[
        (&format!("ACL SETUSER default resetkeys ~{pattern} ~c"), "+OK\r\n"),
        (&format!("GET {key}"), "$-1\r\n"),
        (&format!("MGET {key} {key} c"), "*3\r\n$-1\r\n$-1\r\n$-1\r\n"),
        (&format!("MGET {key} {key} {key}"), DENIED_KEY),
    ]);
    // Those of a transaction that have to be compared once more, too, which could be as many as the client has time to queue.
    let mut execute = |first: &str| {
        server.check(&[("MULTI", "+OK\r\n"), (first, "+QUEUED\r\n")]);
        for _ in 0..4 {
            assert_eq!(server.line(&format!("GET {key}")), "+QUEUED\r\n");
        }
        server.line("EXEC")
    };
    assert_eq!(execute("GET c"), format!("*5\r\n{}", "$-1\r\n".repeat(5)), "nothing changed the rights");
    let reply = execute("ACL SETUSER default ~d");
    assert!(reply.starts_with("*5\r\n+OK\r\n$-1\r\n$-1\r\n-NOPERM ACLs rules changed"), "{reply}");
}

use crate::redis::session::Session;
use crate::redis::test_support::TestServer;

const ONLY: &str =
    "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n";

/// A server whose client is another one than the subscriber that comes with it, which was told this.
fn with_subscriber(commands: &[&str]) -> (TestServer, Session) {
    let mut server = TestServer::reachable();
    let mut subscriber = server.client(2);
    std::mem::swap(&mut server.session, &mut subscriber);
    for command in commands {
        assert!(!server.line(command).starts_with('-'), "{command}");
    }
    std::mem::swap(&mut server.session, &mut subscriber);
    (server, subscriber)
}

#[test]
fn replies_are_those_of_redis() {
    let mut server = TestServer::reachable();
    server.check(&[
        ("SUBSCRIBE", "-ERR wrong number of arguments for 'subscribe' command\r\n"),
        ("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"),
        (
            "SUBSCRIBE a a",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        ),
        ("PSUBSCRIBE b", "*3\r\n$10\r\npsubscribe\r\n$1\r\nb\r\n:2\r\n"),
        ("SSUBSCRIBE c", "*3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n:1\r\n"),
        ("GET a", &format!("-ERR Can't execute 'get': {ONLY}")),
        ("CLIENT ID", &format!("-ERR Can't execute 'client|id': {ONLY}")),
        ("PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
        ("PING x", "*2\r\n$4\r\npong\r\n$1\r\nx\r\n"),
        ("UNSUBSCRIBE b", "*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:2\r\n"),
        ("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("SUNSUBSCRIBE", "*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n"),
        ("PUNSUBSCRIBE b", "*3\r\n$12\r\npunsubscribe\r\n$1\r\nb\r\n:0\r\n"),
        ("PING", "+PONG\r\n"),
        ("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("RESET", "+RESET\r\n"),
        ("PUBSUB CHANNELS", "*0\r\n"),
        ("PUBSUB NUMSUB a", "*2\r\n$1\r\na\r\n:0\r\n"),
        ("PUBSUB SHARDNUMSUB", "*0\r\n"),
        (
            "PUBSUB CHANNELS a b",
            "-ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.\r\n",
        ),
        ("PUBSUB NUMPAT", ":0\r\n"),
        ("PUBLISH a b", ":0\r\n"),
    ]);
    assert!(server.line("HELLO 3").starts_with('%'));
    server.check(&[
        ("SUBSCRIBE a", ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("GET a", "_\r\n"),
        ("PING", "+PONG\r\n"),
        ("CLIENT REPLY OFF", ""),
        ("SUBSCRIBE b", ">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"),
        ("GET", ""),
    ]);
}

#[test]
fn messages_come_in_the_version_that_is_spoken() {
    let (mut server, subscriber) = with_subscriber(&["SUBSCRIBE news", "PSUBSCRIBE n*", "SSUBSCRIBE news"]);
    server.check(&[
        ("PUBLISH news 1", ":2\r\n"),
        ("SPUBLISH news 2", ":1\r\n"),
        ("PUBLISH other 3", ":0\r\n"),
    ]);
    assert_eq!(
        server.messages(&subscriber),
        [
            "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n1\r\n",
            "*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$1\r\n1\r\n",
            "*3\r\n$8\r\nsmessage\r\n$4\r\nnews\r\n$1\r\n2\r\n",
        ]
    );
    let (mut server, mut subscriber) = with_subscriber(&["HELLO 3", "SUBSCRIBE news"]);
    server.check(&[("PUBLISH news 1", ":1\r\n")]);
    // What was published before a change of version is told before it, in the old one.
    std::mem::swap(&mut server.session, &mut subscriber);
    let reply = server.line("HELLO 2");
    assert!(reply.starts_with(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n1\r\n*14\r\n"), "{reply}");
    std::mem::swap(&mut server.session, &mut subscriber);
    server.check(&[("PUBLISH news 2", ":1\r\n")]);
    assert_eq!(server.messages(&subscriber), ["*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n2\r\n"]);
}

#[test]
fn nothing_follows_the_end_of_a_subscription() {
    for (end, reply) in
        [("UNSUBSCRIBE a", "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"), ("RESET", "+RESET\r\n")]
    {
        let (mut server, subscriber) = with_subscriber(&["SUBSCRIBE a"]);
        server.check(&[("PUBLISH a 1", ":1\r\n")]);
        server.session = subscriber;
        server.check(&[(end, &format!("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n{reply}"))]);
        server.check(&[("PUBLISH a 1", ":0\r\n")]);
        assert!(server.messages(&server.session).is_empty());
    }
    let (mut server, subscriber) = with_subscriber(&["SUBSCRIBE a"]);
    let mut subscriber = subscriber;
    subscriber.leave(server.shared());
    server.check(&[("PUBLISH a 1", ":0\r\n")]);
}

#[test]
fn a_transaction_publishes_once_it_has_happened() {
    let (mut server, subscriber) = with_subscriber(&["PSUBSCRIBE *"]);
    server.check(&[
        ("CONFIG SET notify-keyspace-events E$", "+OK\r\n"),
        ("WATCH w", "+OK\r\n"),
        ("MULTI", "+OK\r\n"),
        ("PUBLISH a 1", "+QUEUED\r\n"),
        ("SET k v", "+QUEUED\r\n"),
        ("PUBLISH a 2", "+QUEUED\r\n"),
    ]);
    assert!(server.messages(&subscriber).is_empty());
    server.check(&[("EXEC", "*3\r\n:1\r\n+OK\r\n:1\r\n")]);
    let messages = server.messages(&subscriber);
    let parts: Vec<&str> = messages.iter().map(|message| message.split("\r\n").nth(6).unwrap()).collect();
    assert_eq!(parts, ["a", "__keyevent@0__:set", "a"]);
    server.check(&[
        ("WATCH w", "+OK\r\n"),
        ("MULTI", "+OK\r\n"),
        ("PUBLISH a 1", "+QUEUED\r\n"),
        ("SUBSCRIBE a", "+QUEUED\r\n"),
    ]);
    server.store().set(b"w", b"1", &thermae_core::SetOptions::default()).unwrap();
    server.check(&[("EXEC", "*-1\r\n"), ("PUBSUB CHANNELS", "*0\r\n")]);
    assert!(server.messages(&subscriber).is_empty());
}

#[test]
fn a_transaction_may_subscribe_and_unsubscribe() {
    let mut server = TestServer::reachable();
    server.check(&[
        ("MULTI", "+OK\r\n"),
        ("SUBSCRIBE a b", "+QUEUED\r\n"),
        ("PING", "+QUEUED\r\n"),
        ("UNSUBSCRIBE a", "+QUEUED\r\n"),
        (
            "EXEC",
            "*3\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n\
             *3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n",
        ),
        ("GET x", &format!("-ERR Can't execute 'get': {ONLY}")),
        ("RESET", "+RESET\r\n"),
    ]);
}

#[test]
fn others_see_who_is_subscribed() {
    let (mut server, subscriber) = with_subscriber(&["SUBSCRIBE a b", "PSUBSCRIBE c", "SSUBSCRIBE d"]);
    server.shared().clients.add(&server.session.client);
    server.shared().clients.add(&subscriber.client);
    let line = server.line("CLIENT LIST TYPE pubsub");
    assert!(line.contains(" flags=P ") && line.contains(" sub=2 psub=1 ssub=1 "), "{line}");
    assert_eq!(line.lines().filter(|line| line.starts_with("id=")).count(), 1);
    let info = server.line("INFO stats");
    assert!(info.contains("pubsub_channels:2\r\npubsub_patterns:1\r\npubsubshard_channels:1\r\n"), "{info}");
    server.check(&[
        ("PUBSUB CHANNELS", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("PUBSUB CHANNELS [b-z]", "*1\r\n$1\r\nb\r\n"),
        ("PUBSUB SHARDCHANNELS", "*1\r\n$1\r\nd\r\n"),
        ("PUBSUB NUMSUB a d", "*4\r\n$1\r\na\r\n:1\r\n$1\r\nd\r\n:0\r\n"),
        ("PUBSUB SHARDNUMSUB d", "*2\r\n$1\r\nd\r\n:1\r\n"),
        ("PUBSUB NUMPAT", ":1\r\n"),
        ("CLIENT KILL TYPE pubsub", ":1\r\n"),
    ]);
}

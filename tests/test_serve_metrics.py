"""What `thermae serve` tells of itself: INFO as redis-server has it, and metrics for Prometheus."""

from __future__ import annotations

import contextlib
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pymemcache
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import thermae
from resp import Connection, Reply, connected, wait_until
from serving import redis_server, thermae_serve
from thermae._thermae import Server
from thermae.cli import metrics

GUIDE = Path(__file__).parent.parent / "docs" / "operations.md"

# In order: what is called, what fails, what is rejected, in transactions and outside.
SEQUENCE = """
SET k v|SET k|GET k|GET k|get K|GET|MGET k k2|INCR k|INCRBY n 5|INCRBY n x|DEL k|DEL|APPEND n 1
NONSENSE|CONFIG|CONFIG GET timeout|CONFIG GET|CONFIG FOO|CONFIG SET timeout x|OBJECT
OBJECT ENCODING n|OBJECT FOO n|CLIENT GETNAME|CLIENT SETNAME|EXEC|DISCARD|MULTI|MULTI|SET k v
GETRANGE k|EXEC|MULTI|SET k v|INCR k|EXEC|INCR k|WATCH k|UNWATCH|MULTI|GET k|DISCARD|PING|PING a b
SETEX k 0 v|EXPIRE k x|LATENCY RESET|LATENCY FOO|SELECT x|SELECT 0|MULTI|NONSENSE|EXEC
RENAME nokey b|AUTH|AUTH x|SCAN x|SCAN 0 COUNT 10|BITCOUNT n|SETBIT n x 1|SUBSTR k 0 1|COMMAND COUNT
"""


def text_of(reply: Reply) -> str:
    assert isinstance(reply.value, bytes), reply
    return reply.value.decode()


def lines(connection: Connection, section: str) -> dict[str, str]:
    """The lines of a section of INFO, by name."""
    text = text_of(connection.call("INFO", section))
    head, *rest = text.split("\r\n")
    assert head == f"# {section.capitalize()}"
    return dict(line.split(":", 1) for line in rest if line)


def plain(reply: Reply) -> object:
    """A reply without the marks of the wire."""
    return [plain(part) for part in reply.value] if isinstance(reply.value, list) else reply.value


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of a redis-server and of ours."""
    directory = tmp_path_factory.mktemp("metrics")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with redis_server(directory) as theirs, thermae_serve(location, "--hot", "16MiB") as serving:
            yield theirs, serving.redis
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


@pytest.fixture
def both(servers: tuple[str, str]) -> Iterator[tuple[Connection, Connection]]:
    """A connection to each, nothing being stored or counted."""
    with Connection(servers[0]) as theirs, Connection(servers[1]) as ours:
        for connection in (theirs, ours):
            connection.call("FLUSHALL")
            connection.call("CONFIG", "SET", "latency-tracking", "yes")
            connection.call("CONFIG", "SET", "latency-tracking-info-percentiles", "50 99 99.9")
            connection.call("CONFIG", "RESETSTAT")
        yield theirs, ours


def tell(connection: Connection, commands: str = SEQUENCE) -> None:
    for line in commands.strip().replace("\n", "|").split("|"):
        connection.call(*line.split(" "))


class TestInfo:
    def test_calls_failures_and_rejections_are_those_of_redis(
        self, both: tuple[Connection, Connection]
    ) -> None:
        forms, counts = [], []
        for connection in both:
            tell(connection)
            found = lines(connection, "commandstats")
            form = re.compile(
                r"calls=(\d+),usec=\d+,usec_per_call=\d+\.\d\d,rejected_calls=(\d+),failed_calls=(\d+)"
            )
            matches = {name: form.fullmatch(value) for name, value in found.items()}
            forms.append(all(matches.values()))
            counts.append({name: match.groups() for name, match in matches.items() if match})
        assert forms == [True, True]
        assert counts[0] == counts[1]
        assert counts[1]["cmdstat_exec"] == ("4", "0", "3")

    def test_a_refused_stranger_is_counted_as_rejected(self, both: tuple[Connection, Connection]) -> None:
        counts = []
        for connection in both:
            connection.call("CONFIG", "SET", "requirepass", "secret")
            with Connection(":".join(map(str, connection.socket.getpeername()))) as stranger:
                for words in (["GET", "k"], ["GET"], ["AUTH", "wrong"], ["AUTH", "secret"], ["GET", "k"]):
                    stranger.call(*words)
            connection.call("CONFIG", "SET", "requirepass", "")
            found = lines(connection, "commandstats")
            counts.append([re.sub(r",usec.*?,r", ",r", found[f"cmdstat_{name}"]) for name in ("get", "auth")])
        assert counts[0] == counts[1]

    def test_percentiles_have_the_form_of_redis(self, both: tuple[Connection, Connection]) -> None:
        names, forms = [], []
        for connection in both:
            connection.call("CONFIG", "SET", "latency-tracking-info-percentiles", "0 50 99.99 100")
            tell(connection)
            found = lines(connection, "latencystats")
            names.append(set(found))
            forms.append({re.sub(r"=\d+\.\d{3}(?=,|$)", "=", value) for value in found.values()})
            for value in found.values():
                numbers = [float(part.split("=")[1]) for part in value.split(",")]
                assert numbers == sorted(numbers)
        assert names[0] == names[1]
        assert forms[0] == forms[1] == {"p0=,p50=,p99.99=,p100="}

    @pytest.mark.parametrize("section", ["commandstats", "latencystats", "errorstats"])
    def test_resetting_leaves_what_came_after(
        self, both: tuple[Connection, Connection], section: str
    ) -> None:
        names = []
        for connection in both:
            tell(connection)
            connection.call("CONFIG", "RESETSTAT")
            connection.call("INCRBY", "n", "x")
            names.append(set(lines(connection, section)))
        assert names[0] == names[1]

    @pytest.mark.parametrize("asked", ["all", "everything", "default", "commandstats latencystats"])
    def test_sections_come_as_in_redis(self, both: tuple[Connection, Connection], asked: str) -> None:
        titles = []
        for connection in both:
            connection.call("PING")
            text = text_of(connection.call("INFO", *asked.split()))
            titles.append(
                [line for line in text.split("\r\n") if line.startswith("#") and line != "# Thermae"]
            )
        assert titles[0] == titles[1]

    @pytest.mark.parametrize(
        "words", ["", "50", "0 100", "101", "-1", "x", "50 50", "1e1 99.99999", "50  99", " 50"]
    )
    def test_percentiles_are_read_as_redis_reads_them(
        self, both: tuple[Connection, Connection], words: str
    ) -> None:
        name = "latency-tracking-info-percentiles"
        theirs, ours = ((c.call("CONFIG", "SET", name, words), c.call("CONFIG", "GET", name)) for c in both)
        assert theirs == ours

    def test_commands_processed_are_those_of_redis(self, both: tuple[Connection, Connection]) -> None:
        processed = []
        for connection in both:
            tell(connection)
            processed.append(lines(connection, "stats")["total_commands_processed"])
        assert processed[0] == processed[1]


class TestLatencyHistogram:
    def test_calls_are_those_of_redis_and_counts_grow(self, both: tuple[Connection, Connection]) -> None:
        calls = []
        for connection in both:
            tell(connection)
            reply = plain(connection.call("LATENCY", "HISTOGRAM"))
            assert isinstance(reply, list)
            found = dict(zip(reply[::2], reply[1::2], strict=True))
            for _, count, title, steps in found.values():
                assert title == b"histogram_usec"
                bounds, counts = steps[::2], steps[1::2]
                assert bounds == sorted(set(bounds))
                assert counts == sorted(set(counts))
                assert counts[-1] == count
                assert set(bounds) <= {int((1 + 1 / 128) * 2**power - 1) // 1000 for power in range(10, 37)}
            calls.append({name: count for name, (_, count, _, _) in found.items()})
        assert calls[0] == calls[1]

    @pytest.mark.parametrize(
        "names", ["get", "GET nonsense get", "config", "config|get", "object foo", "nonsense"]
    )
    def test_some_are_named(self, both: tuple[Connection, Connection], names: str) -> None:
        replies = []
        for connection in both:
            tell(connection)
            reply = plain(connection.call("LATENCY", "HISTOGRAM", *names.split()))
            assert isinstance(reply, list)
            replies.append(
                sorted((name, histogram[:3]) for name, histogram in zip(reply[::2], reply[1::2], strict=True))
            )
        assert replies[0] == replies[1]

    def test_it_is_a_map_of_maps_in_resp3(self, servers: tuple[str, str]) -> None:
        shapes = []
        for address in servers:
            with Connection(address, 3) as connection:
                connection.call("GET", "k")
                reply = connection.call("LATENCY", "HISTOGRAM", "get")
                assert isinstance(reply.value, list)
                inner = reply.value[1]
                assert isinstance(inner.value, list)
                shapes.append(
                    [reply.mark, *(part.mark for part in reply.value), *(p.mark for p in inner.value)]
                )
        assert shapes[0] == shapes[1] == ["%", "$", "%", "$", ":", "$", "%"]

    def test_without_tracking_nothing_is_added(self, both: tuple[Connection, Connection]) -> None:
        replies = []
        for connection in both:
            connection.call("GET", "k")
            connection.call("CONFIG", "SET", "latency-tracking", "no")
            connection.call("GET", "k")
            reply = plain(connection.call("LATENCY", "HISTOGRAM", "get"))
            assert isinstance(reply, list)
            replies.append((reply[0], reply[1][:2], lines(connection, "latencystats")))
            assert lines(connection, "commandstats")["cmdstat_get"].startswith("calls=2,")
        assert replies[0] == replies[1] == (b"get", [b"calls", 1], {})


def scraped(url: str) -> dict[str, Metric]:
    with urllib.request.urlopen(url, timeout=30) as page:
        assert page.headers["Content-Type"].startswith("text/plain")
        return {family.name: family for family in text_string_to_metric_families(page.read().decode())}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in metrics.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


@contextlib.contextmanager
def metrics_page() -> Iterator[tuple[str, int]]:
    """Where metrics would be shown that nobody reads."""
    page = metrics.MetricsPage("127.0.0.1:0")
    with page, page.showing(cast("Server", None)):
        url = urlsplit(page.url)
        assert url.hostname is not None
        assert url.port is not None
        yield url.hostname, url.port


class TestMetrics:
    def test_all_loops_and_both_faces_add_up(self, location: str) -> None:
        options = ("--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
        with thermae_serve(location, "--hot", "16MiB", "--threads", "2", *options) as serving:
            with contextlib.ExitStack() as stack:
                # Loops get their clients in turn.
                clients = [stack.enter_context(serving.connection()) for _ in range(4)]
                for client in clients:
                    client.pipelined(
                        [["SET", "k", "v"], ["GET", "k"], ["GET", "nokey"], ["INCR", "k"], ["GET"]]
                    )
                host, port = serving.memcached.split(":")
                over_memcached = pymemcache.Client((host, int(port)), default_noreply=False)
                over_memcached.set("m", b"1")
                for _ in range(3):
                    assert over_memcached.get("m") == b"1"
                over_memcached.get("n")
                over_memcached.close()
                clients[0].call("CONFIG", "RESETSTAT")
                wait_until(lambda: value(scraped(serving.metrics), "thermae_connections") == 4)
                metrics = scraped(serving.metrics)
                assert lines(clients[0], "commandstats").keys() == {"cmdstat_config|resetstat"}
            for command, calls, failed, rejected in [
                ("set", 4, 0, 0),
                ("get", 8, 0, 4),
                ("incr", 4, 4, 0),
                ("config|resetstat", 1, 0, 0),
                ("memcached_set", 1, 0, 0),
                ("memcached_get", 4, 0, 0),
            ]:
                names = ("commands_total", "commands_failed_total", "commands_rejected_total")
                found = [value(metrics, f"thermae_{name}", command=command) for name in names]
                assert found == [calls, failed, rejected], command
                durations = [
                    sample
                    for sample in metrics["thermae_command_duration_seconds"].samples
                    if sample.labels["command"] == command and sample.name.endswith("_bucket")
                ]
                bounds = [float(sample.labels["le"]) for sample in durations]
                assert bounds == [*(2**power / 1e9 for power in range(10, 31)), float("inf")]
                counts = [sample.value for sample in durations]
                assert counts == sorted(counts)
                assert counts[-1] == calls
                seconds = value(metrics, "thermae_command_duration_seconds_sum", command=command)
                assert 0 < seconds < 60
            assert value(metrics, "thermae_errors_total", code="ERR") == 8
            assert value(metrics, "thermae_memcached_total", count="get_hits") == 3
            assert value(metrics, "thermae_memcached_total", count="get_misses") == 1
            assert value(metrics, "thermae_connections_accepted_total") == 5
            assert value(metrics, "thermae_keys") == 2
            assert value(metrics, "thermae_keyspace_misses_total") >= 5
            assert value(metrics, "thermae_tier_bytes", tier="hot") == 16 << 20
            assert 0 < value(metrics, "thermae_tier_used_bytes", tier="hot") <= 16 << 20
            assert value(metrics, "thermae_received_bytes_total") > 4 * 100
            assert value(metrics, "thermae_writes_stopped") == 0

    def test_the_guide_lists_what_a_scrape_gives(self, location: str) -> None:
        with thermae_serve(location, "--hot", "16MiB", "--metrics", "127.0.0.1:0") as serving:
            with serving.connection() as client:
                client.call("GET")
                client.call("GET", "k")
            given = {}
            for family in scraped(serving.metrics).values():
                assert family.documentation, family.name
                suffix = "_total" if family.type == "counter" else ""
                labels = {label for sample in family.samples for label in sample.labels} - {"le"}
                given[family.name + suffix] = (family.type, ", ".join(labels))
        rows = re.findall(
            r"^\| `(thermae_\w+)` \| (\w+) \| (?:`(\w+)`)? ?\|", GUIDE.read_text(), re.MULTILINE
        )
        assert {name: (kind, label) for name, kind, label in rows} == given

    def test_who_says_nothing_keeps_nobody_waiting_for_long(self, location: str) -> None:
        with thermae_serve(location, "--hot", "16MiB", "--metrics", "127.0.0.1:0") as serving:
            url = urlsplit(serving.metrics)
            with socket.create_connection((url.hostname, url.port)) as silent:
                assert scraped(serving.metrics)
                silent.settimeout(30)
                assert silent.recv(1) == b""

    def test_who_sends_byte_by_byte_has_no_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The limit was for each byte, so that one a second kept the only thread for as long as it liked."""
        monkeypatch.setattr(metrics, "_CLIENT_SECONDS_MAX", 0.5)
        with metrics_page() as page, socket.create_connection(page) as slow:
            started = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - started < 20:
                    slow.sendall(b"G")
                    slow.settimeout(0.05)
                    with contextlib.suppress(TimeoutError):
                        if not slow.recv(1):
                            break
            assert time.monotonic() - started < 10

    def test_the_end_waits_for_nobody(self) -> None:
        """A server lived on for as long as a client of its metrics was slow."""
        with contextlib.ExitStack() as slow:
            with metrics_page() as page:
                slow.enter_context(socket.create_connection(page)).sendall(b"GET ")
                slow.enter_context(socket.create_connection(page)).sendall(b"GET ")
                # The first is being served by now, and has five seconds.
                time.sleep(0.3)
                started = time.monotonic()
            assert time.monotonic() - started < 3

    def test_an_option_of_the_environment(self, location: str) -> None:
        environment = {"THERMAE_METRICS": "127.0.0.1:0"}
        with thermae_serve(location, "--hot", "16MiB", environment=environment) as serving:
            # It is announced first.
            assert value(scraped(serving.metrics), "thermae_keys") == 0

    @pytest.mark.parametrize("address", ["9121", "127.0.0.1:", ":9121", "127.0.0.1:x", "127.0.0.1:99999"])
    def test_what_is_no_address_is_refused(self, location: str, address: str) -> None:
        with (
            pytest.raises(AssertionError, match=r"is no HOST:PORT"),
            thermae_serve(location, "--metrics", address),
        ):
            pass

    def test_an_address_in_use_is_refused_before_there_is_a_store(self, location: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with (
                pytest.raises(
                    AssertionError, match=f"cannot listen on {address} .--metrics.: another server"
                ),
                thermae_serve(location, "--metrics", address),
            ):
                pass
        with pytest.raises(thermae.NotAStoreError):
            thermae.destroy(location)

    def test_what_the_store_counted_before_is_left_out_of_what_clients_see(self, location: str) -> None:
        """INFO and stats showed what all servers of a store had ever counted, whatever was reset."""
        options = ("--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0", "--metrics", "127.0.0.1:0")

        def shown() -> tuple[list[str], list[str]]:
            fields = lines(client, "stats")
            names = ("keyspace_hits", "keyspace_misses", "expired_keys", "evicted_keys")
            over_memcached.sendall(b"stats\r\n")
            report = dict(line.split()[1:] for line in iter(received.readline, "END\n"))
            memcached_names = ("total_items", "reclaimed", "evictions", "total_connections")
            return [fields[name] for name in names], [report[name] for name in memcached_names]

        for times in (1, 2):
            with (
                thermae_serve(location, "--hot", "16MiB", *options) as serving,
                serving.connection() as client,
                connected(serving.memcached) as over_memcached,
                over_memcached.makefile() as received,
            ):
                assert shown() == (["0", "0", "0", "0"], ["0", "0", "0", "2"])
                commands = [["SET", "k", "v", "PX", "1"], ["SET", "a", "b"], ["GET", "a"], ["GET", "no"]]
                client.pipelined(commands)
                wait_until(lambda: shown()[0][2] == "1")
                assert shown() == (["1", "1", "1", "0"], ["2", "1", "0", "2"])
                client.call("CONFIG", "RESETSTAT")
                assert shown() == (["0", "0", "0", "0"], ["2", "1", "0", "2"])
                over_memcached.sendall(b"stats reset\r\n")
                assert received.readline() == "RESET\n"
                assert shown() == (["0", "0", "0", "0"], ["0", "0", "0", "0"])
                metrics = scraped(serving.metrics)
                assert value(metrics, "thermae_keyspace_hits_total") == times
                assert value(metrics, "thermae_expired_keys_total") == times
                assert value(metrics, "thermae_sets_total") == 2 * times

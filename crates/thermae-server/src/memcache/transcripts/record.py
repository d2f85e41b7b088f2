"""Writes down what a real memcached answers: the `<` lines of the transcripts beside this file.

    python3 record.py [--check] text.txt meta.txt       (needs memcached 1.6 in the path)

A transcript is a row of cases. `# ` begins a case and names it; `> ` is what a client sends, `< ` what
memcached answers, and `! `, where there is one, what Thermae answers instead, for one of the reasons
that ../mod.rs gives. Bytes are written as in Python, without quotes; `{250*a}` repeats; `{c1}` is the
first CAS value that was answered, `{c1+1}` and `{c1-1}` its neighbours; `{closed}` ends an answer after
which the connection was closed. A line of `> ` after which nothing is answered has an empty `< `. With
--check nothing is written, and the exit code says whether all is as recorded, but for what Thermae
answers otherwise.
"""

import ast
import contextlib
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

# How long an answer may be in coming, and, once some of it has come, the rest of it.
ANSWER_SECONDS = 0.4
REST_SECONDS = 0.03
# A second may begin between two steps: what is left is rounded up to tens, what has passed down to none.
SECONDS_LEFT = re.compile(rb"(?<= t)\d+9(?=[ \r])|(?<=exp=-)\d+9(?= )")
SECONDS_PASSED = re.compile(rb"(?<= l)1(?=[ \r])|(?<=la=)1(?= )")
PLACES = re.compile(rb"(?:(?<=VALUE)( \S+ \d+ \d+ )|( c)|(cas=))(\d+)(?=[ \r])")


def to_bytes(text: str, cas: list[bytes]) -> bytes:
    """The bytes that a transcript's text stands for."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[2] * int(match[1])
        return str(int(cas[int(match[3]) - 1]) + int(match[4] or 0))

    text = re.sub(r"\{(\d+)\*([^}]+)\}|\{c(\d+)([+-]\d+)?\}", value, text)
    return ast.literal_eval("b'" + text.replace("'", "\\'") + "'")


def to_text(answer: bytes, cas: list[bytes]) -> str:
    """An answer as a transcript writes it."""

    def name(match: re.Match[bytes]) -> bytes:
        if match[4] == b"0":
            return match[0]
        if match[4] not in cas:
            cas.append(match[4])
        return b"%s{c%d}" % (match[1] or match[2] or match[3], cas.index(match[4]) + 1)

    answer = SECONDS_LEFT.sub(lambda match: b"%d" % (int(match[0]) + 1), answer)
    answer = SECONDS_PASSED.sub(b"0", answer)
    text = repr(PLACES.sub(name, answer))
    text = text[2:-1].replace("\\'", "'")
    return re.sub(r"([A-Za-z0-9])\1{29,}", lambda match: f"{{{len(match[0])}*{match[1]}}}", text)


def answer_of(client: socket.socket) -> bytes:
    """What the server answers to what was sent."""
    answer = b""
    client.settimeout(ANSWER_SECONDS)
    try:
        while received := client.recv(1 << 20):
            answer += received
            client.settimeout(REST_SECONDS)
    except TimeoutError:
        return answer
    except ConnectionResetError:
        pass
    return answer + b"{closed}"


def record(lines: list[str], port: int) -> list[str]:
    """A transcript with the answers of the server at this port."""
    out: list[str] = []
    cas: list[bytes] = []
    client = None
    for line in lines:
        if line.startswith("# "):
            cas = []
            if client is not None:
                client.close()
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"flush_all\r\n")
            assert client.recv(100) == b"OK\r\n"
        if line.startswith("<"):
            continue
        out.append(line)
        if line.startswith("> "):
            with contextlib.suppress(BrokenPipeError):
                client.sendall(to_bytes(line[2:], cas))
            out.append(("< " + to_text(answer_of(client), cas)).rstrip())
    return out


def compared(transcript: str) -> str:
    """A transcript without what Thermae answers otherwise."""
    return re.sub(r"^<.*\n!.*\n", "", transcript, flags=re.MULTILINE)


def main() -> int:
    """Records, or compares, the transcripts that are named."""
    check = "--check" in sys.argv
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["memcached", "-U", "0", "-l", "127.0.0.1", "-p", str(port), "-t", "1", "-u", "nobody"]
    server = subprocess.Popen(command)
    time.sleep(0.3)
    differs = False
    try:
        for name in sys.argv[1:]:
            if name.startswith("--"):
                continue
            path = Path(name)
            before = path.read_text()
            after = "\n".join(record(before.splitlines(), port)) + "\n"
            differs |= compared(before) != compared(after)
            if not check:
                path.write_text(after)
    finally:
        server.terminate()
        server.wait()
    return 1 if check and differs else 0


if __name__ == "__main__":
    sys.exit(main())

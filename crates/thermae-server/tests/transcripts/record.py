#!/usr/bin/env python3
"""Records transcripts: each file's commands go to a private redis-server, its replies are written below them.

    python crates/thermae-server/tests/transcripts/record.py strings.txt

Lines that begin with `> ` are commands, those below them replies; the rest is kept. Run it when commands were
added.
"""

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIMPLE = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x22: '\\"', 0x27: "\\'", 0x5C: "\\\\"}


def escaped(data: bytes) -> str:
    """As Rust's `escape_ascii` has it."""
    return "".join(
        SIMPLE.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}") for byte in data
    )


def receive(client: socket.socket, marker: bytes) -> bytes:
    """What comes before the marker."""
    data = b""
    while not data.endswith(marker):
        data += client.recv(1 << 20)
    return data.removesuffix(marker)


def ask(client: socket.socket, command: str, number: int) -> bytes:
    """One command's reply."""
    # The reply to the second command shows that the first one's is whole.
    text = f"mark-{number}-end"
    client.sendall(command.encode() + b"\n" + b"ECHO " + text.encode() + b"\n")
    return receive(client, f"${len(text)}\r\n{text}\r\n".encode())


def record(path: Path, socket_path: str) -> None:
    """Records one transcript anew."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(socket_path)
    ask(client, "FLUSHALL", 0)
    written: list[str] = []
    is_reply = False
    for number, line in enumerate(path.read_text().splitlines()):
        if is_reply and not re.match(r"[>!#]|$", line):
            is_reply = False
            continue
        is_reply = line.startswith("> ")
        written.append(line)
        if line == "! resp3":
            ask(client, "HELLO 3", number)
        elif is_reply:
            written.append(escaped(ask(client, line[2:], number)))
    path.write_text("\n".join(written) + "\n")


def main() -> None:
    """Records the transcripts that the command line names."""
    with tempfile.TemporaryDirectory() as directory:
        socket_path = f"{directory}/socket"
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", socket_path, "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not Path(socket_path).exists():
                time.sleep(0.05)
            for name in sys.argv[1:]:
                record(Path(__file__).with_name(Path(name).name), socket_path)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()

"""What a service tells systemd of itself: that it is ready, reloads its configuration, and ends.

A datagram to the socket that NOTIFY_SOCKET names, as sd_notify(3) has it; nothing where there is none. A
library was rejected: it would be these few lines.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Sends assignments such as `READY=1`. Where nobody takes them, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # A name in the abstract namespace begins with a zero byte, written as @.
    name = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # A manager that does not read must not keep the service waiting.
        sender.setblocking(False)
        sender.sendto("\n".join(assignments).encode(), name)


def notify_ready() -> None:
    """It serves."""
    notify("READY=1")


def notify_reloading() -> None:
    """It reads its configuration again; `notify_ready` says that it has."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def notify_stopping() -> None:
    """It ends."""
    notify("STOPPING=1")

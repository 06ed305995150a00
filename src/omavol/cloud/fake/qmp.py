"""A QEMU's monitor through a unix socket, or through a port of the very guest that it runs (docs/interop/qmp-spec.rst).

In a guest the greeting may be gone before anybody listens: it is not waited for. A port outlives who uses it: what the
last one left unread is passed over, and the capabilities may be negotiated already.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
import time
import uuid
from pathlib import Path
from typing import Any

__all__ = ["Monitor", "Refused", "Silent"]

LIMIT = 60.0  # seconds for an answer


class Refused(Exception):
    """QEMU said no."""


class Silent(Exception):
    """QEMU said nothing for too long."""


class Monitor:
    """One command at a time; what it tells unasked is kept. For one thread."""

    def __init__(self, path: Path, *, limit: float = LIMIT) -> None:
        self._limit = limit
        if stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as dialled:
                dialled.connect(str(path))
                self._port = dialled.detach()
        else:
            self._port = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        with contextlib.suppress(Refused):  # of a port that somebody had before: it is negotiated already
            self.ask("qmp_capabilities")

    def close(self) -> None:
        os.close(self._port)

    def ask(self, command: str, **arguments: object) -> Any:
        """The answer; Refused with QEMU's words, Silent after the limit."""
        question = {"execute": command, "arguments": arguments, "id": uuid.uuid4().hex}
        os.write(self._port, json.dumps(question).encode() + b"\n")
        while True:
            said = self._hear()
            if "event" in said:
                self._events.append(said)
            elif said.get("id") != question["id"]:
                continue
            elif "error" in said:
                raise Refused(f"{command}: {said['error']['desc']}")
            elif "return" in said:
                return said["return"]

    def wait_for(self, event: str, device: str) -> None:
        """Return when that event of that device was told, before or now; Silent after the limit."""
        while True:
            for index, said in enumerate(self._events):
                if said["event"] == event and said["data"].get("device") == device:
                    del self._events[index]
                    return
            said = self._hear()
            if "event" in said:
                self._events.append(said)

    def _hear(self) -> dict[str, Any]:
        end = time.monotonic() + self._limit
        while b"\n" not in self._buffer:
            if not select.select([self._port], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Silent(f"the monitor said nothing for {self._limit:g} s")
            data = os.read(self._port, 65536)
            if not data:
                raise Silent("the monitor hung up")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:  # the rest of a line whose beginning somebody else has read
            return {}
        return said

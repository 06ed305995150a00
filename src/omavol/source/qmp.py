"""A client of QEMU's monitor (docs/interop/qmp-spec.rst) over a unix socket: one command at a time, with limits."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from omavol.source.errors import MonitorLost, MonitorRefused, MonitorUnreachable

__all__ = ["Event", "Monitor"]

GREETING_TIMEOUT = 5.0
COMMAND_TIMEOUT = 60.0
MESSAGE_LIMIT = 64 << 20
EVENTS_KEPT = 1000


class Event(msgspec.Struct, frozen=True):
    name: str
    data: dict[str, Any]


class Monitor:
    """One connection to a monitor, which greets within `timeout` seconds. For one thread at a time.

    A monitor serves one client at a time; `name` is how errors call it. Raises MonitorUnreachable without a greeting.
    """

    def __init__(self, connection: socket.socket, name: str, *, timeout: float = GREETING_TIMEOUT) -> None:
        self.name = name
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._received = bytearray()
        self._commands = 0
        self._socket = connection
        try:
            self.version = self._greeting(time.monotonic() + timeout)
            self.execute("qmp_capabilities", timeout=timeout)
        except BaseException:
            self._socket.close()
            raise

    @classmethod
    def connect(cls, path: Path, *, timeout: float = GREETING_TIMEOUT) -> Monitor:
        """The monitor that listens at `path`.

        Raises FileNotFoundError or ConnectionRefusedError if nobody does: so looks a machine that does not run.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
        except TimeoutError as error:
            connection.close()
            raise MonitorUnreachable(f"the monitor at {path} is busy with another client") from error
        except BaseException:
            connection.close()
            raise
        return cls(connection, f"the monitor at {path}", timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the machine goes on."""
        self._socket.close()

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = COMMAND_TIMEOUT
    ) -> Any:
        """Run a command and return what QEMU returned; events that arrive meanwhile are kept in `events`.

        Raises MonitorRefused with QEMU's class and description, MonitorLost if there is no answer in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        self._commands += 1
        request = {"execute": command, "arguments": dict(arguments or {}), "id": self._commands}
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(msgspec.json.encode(request) + b"\n")
        except OSError as error:
            raise MonitorLost(f"{self.name} took no command ({command}): {error}") from error
        while True:
            message = self._message(deadline, waiting_for=command)
            if "event" in message:
                self._keep(message)
            elif message.get("id", self._commands) != self._commands:
                continue  # the late answer to a command that was given up
            elif "error" in message:
                refusal = message["error"]
                raise MonitorRefused(command, str(refusal.get("class", "")), str(refusal.get("desc", "")))
            else:
                return message.get("return")

    def wait(self, done: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Ask `done` now and after each event until it is true; MonitorLost after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self.events.clear()
        while not done():
            while not self.events:
                self._keep(self._message(deadline, waiting_for=what))
            self.events.clear()

    def wait_for_end(self, *, timeout: float) -> None:
        """Wait until the peer closes the connection; MonitorLost after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self._message(deadline, waiting_for="its end")
        except EOFError:
            return

    def _greeting(self, deadline: float) -> tuple[int, int, int]:
        try:
            greeting = self._message(deadline, waiting_for="its greeting")
        except (MonitorLost, EOFError) as error:
            raise MonitorUnreachable(
                f"{self.name} does not greet: it is no QMP socket, or busy with another client"
            ) from error
        try:
            version = greeting["QMP"]["version"]["qemu"]
            return (int(version["major"]), int(version["minor"]), int(version["micro"]))
        except (KeyError, TypeError, ValueError) as error:
            raise MonitorUnreachable(f"{self.name} is not a QMP monitor") from error

    def _keep(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self.events.append(Event(str(message["event"]), message.get("data") or {}))

    def _message(self, deadline: float, *, waiting_for: str) -> dict[str, Any]:
        """The next message. Raises EOFError (a ConnectionError to callers of execute) when the peer is gone."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MESSAGE_LIMIT:
                raise MonitorLost(f"{self.name} sends a line without an end")
            remaining = deadline - time.monotonic()
            try:
                if remaining <= 0:
                    raise TimeoutError
                self._socket.settimeout(remaining)
                piece = self._socket.recv(1 << 16)
            except TimeoutError as error:
                raise MonitorLost(f"{self.name} is silent ({waiting_for})") from error
            except OSError as error:
                raise _Gone(f"{self.name} broke off ({waiting_for}): {error}") from error
            if not piece:
                raise _Gone(f"{self.name} ended ({waiting_for})")
            self._received += piece
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise MonitorLost(f"{self.name} sends what is not JSON") from error


class _Gone(MonitorLost, EOFError):
    """The peer closed the connection."""

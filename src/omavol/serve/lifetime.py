"""How long a server lives: until a signal, until its last client has left, until a command or the parent has ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from omavol.serve.errors import ServeError

if TYPE_CHECKING:
    import subprocess

__all__ = ["Lifetime", "notify"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Lifetime:
    """Waits in the main thread for whatever ends the server first; a context manager, made before any other thread.

    Signals are blocked until `wait`, so that one that comes while the server starts ends it in order all the same.
    """

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._poll = select.poll()
        self._held: list[int] = []
        self._command: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lifetime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._held:
            os.close(descriptor)

    def vacancy(self) -> int:
        """An eventfd: whoever adds 1 to it ends the server."""
        return self._hold(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def end_with_parent(self) -> None:
        """End when the process that started this one has ended (pidfd_open(2))."""
        parent = os.getppid()
        with contextlib.suppress(ProcessLookupError):
            self._hold(os.pidfd_open(parent))
            if os.getppid() == parent:
                return
        raise ServeError("no_parent", "the parent process has ended already")

    def run(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a command with no signal blocked, and end with it."""
        import subprocess  # which few servers need

        self._listen_to_signals()
        self._command = subprocess.Popen(argv, env=environment)
        self._hold(os.pidfd_open(self._command.pid))

    def wait(self) -> int:
        """Wait for the end; the exit status it asks for: the command's, or 0. A command still there is told to end."""
        self._listen_to_signals()
        self._poll.poll()
        if self._command is None:
            return 0
        if self._command.poll() is None:
            self._command.terminate()
        status = self._command.wait()
        return 128 - status if status < 0 else status

    def _hold(self, descriptor: int) -> int:
        self._held.append(descriptor)
        self._poll.register(descriptor, select.POLLIN)
        return descriptor

    def _listen_to_signals(self) -> None:
        """Let a signal write into a pipe that is waited for (signal.set_wakeup_fd)."""
        if signal.getsignal(SIGNALS[0]) is not _ignored:
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._hold(reader)
            self._held.append(writer)
            signal.set_wakeup_fd(writer)
            for number in SIGNALS:
                signal.signal(number, _ignored)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _ignored(number: int, frame: object) -> None:
    """The pipe has heard of it."""


def notify(state: str) -> None:
    """Tell the service manager, where one asks to be told (sd_notify(3)); nobody there is no fault."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there, contextlib.suppress(OSError):
        there.connect("\0" + path[1:] if path.startswith("@") else path)
        there.send(state.encode())

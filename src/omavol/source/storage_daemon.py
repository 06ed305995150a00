"""A qemu-storage-daemon of our own, which holds a stopped machine's images open and locked for the time of a pass.

It ends by itself when this process is killed (PR_SET_PDEATHSIG, by setpriv): SIGTERM makes it close the images, which
stores their bitmaps. So a crash leaves neither a locked image nor a lost change record.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from pathlib import Path

from omavol.source.errors import FreezeFailed, SourceError
from omavol.source.qmp import Monitor

__all__ = ["StorageDaemon", "end_leftover"]

START_LIMIT = 20.0
END_LIMIT = 30.0


class StorageDaemon:
    """A running daemon with its monitor. Made, used and stopped by one thread at a time.

    The monitor is one end of a socket pair: QEMU 7.2 greets a client twice, and forgets what it said in between, when
    that connects to a listening monitor at the wrong moment of the start.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._start(theirs.fileno())
            except BaseException:
                ours.close()
                raise
        try:
            self.monitor = Monitor(ours, "the monitor of our qemu-storage-daemon", timeout=START_LIMIT)
        except (SourceError, OSError) as error:
            self._process.kill()
            raise FreezeFailed(f"qemu-storage-daemon did not start: {self._last_words() or error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Close the images (their bitmaps are stored) and end; killed if it does not end in time."""
        try:
            self.monitor.execute("quit")
            self.monitor.wait_for_end(timeout=END_LIMIT)
        except SourceError:
            self._process.terminate()
        finally:
            self.monitor.close()
        try:
            self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        daemon = ["qemu-storage-daemon", "--chardev", f"socket,id=monitor,fd={descriptor}"]
        argv = ["setpriv", "--pdeathsig", "TERM", "--", *daemon, "--monitor", "chardev=monitor"]
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(descriptor,),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise FreezeFailed(
                f"{error.filename} is not installed",
                advice=("Install it (Debian: apt-get install qemu-system-common qemu-utils util-linux).",),
            ) from error

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            words = stderr.read().decode(errors="replace").strip().splitlines()
        self._process.wait()
        return words[-1].removeprefix("qemu-storage-daemon: ") if words else ""


def end_leftover(pid: int | None) -> None:
    """End a daemon that an earlier process of ours started, and wait until it is gone; none is no error."""
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _is_ours(pid):
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                select.select([handle], [], [], END_LIMIT)
        finally:
            os.close(handle)


def _is_ours(pid: int) -> bool:
    """A process id may have been given to another program since; ours carries this monitor in its command line."""
    try:
        return b"id=monitor,fd=" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False

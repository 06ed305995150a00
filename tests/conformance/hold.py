"""Runs a server that detaches (nbd-server) as if it did not: waits for it, ends with it, and ends it.

hold.py PIDFILE COMMAND...
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): the detached server becomes a child of this process

pid_file, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end(*_: object) -> None:
    with suppress(OSError, ValueError):
        os.kill(int(Path(pid_file).read_text()), signal.SIGTERM)


signal.signal(signal.SIGTERM, end)
Path(pid_file).unlink(missing_ok=True)
subprocess.run(command, check=True)
with suppress(ChildProcessError):
    while True:
        pid, status = os.wait()
        with suppress(OSError, ValueError):
            if pid == int(Path(pid_file).read_text()) and os.WIFSIGNALED(status):
                os.kill(os.getpid(), os.WTERMSIG(status))

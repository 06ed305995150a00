"""A machine that is booted again, for what must outlast a reboot: each boot runs one function of a test's own module.

    def written() -> list[str]: ...     # at the top of the module: runs in the guest
    def found() -> list[str]: ...

    def test_it_is_found_after_a_reboot(machine):
        disks = [machine.disk("first"), machine.disk("second")]
        assert machine.boot(found, disks=disks[::-1]) == machine.boot(written, disks=disks)

Arguments and what is returned go through JSON. A boot takes some 6 s and ends as if the power were cut. A file system
of the machine's own is at STATE in each boot; /run/job is the same directory too, but by 9p: no socket, no SQLite in
WAL mode can be there. Disks may be plugged in and out in a boot as in the tests of inside/.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guest import cache_home
from machine import Disk, run

__all__ = ["STATE", "Machine"]

STATE = Path("/state")
STATE_SERIAL = "state"
STATE_SIZE = 256 << 20  # bytes
LIMIT = 300.0  # seconds for a boot and its phase
HERE = Path(__file__).parent
PHASE, ANSWER = "phase", "answer"  # in the job's directory
JOB_IN_GUEST = Path("/run/job")


class Machine:
    """`root` is the checkout; `job` a directory for its disks, which outlives the boots."""

    def __init__(self, root: Path, job: Path) -> None:
        self.root = root
        self.job = job
        self._state = self.disk(STATE_SERIAL, STATE_SIZE)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", self._state.path], check=True, timeout=60)

    def disk(self, serial: str, size: int = 8 << 20, *, scsi: bool = False) -> Disk:
        """A disk of zeroes, `size` bytes, for the boots that it is given to."""
        path = self.job / f"{serial}.raw"
        with path.open("xb") as file:
            file.truncate(size)
        return Disk(path, serial, scsi)

    def boot(self, phase: Callable[..., Any], *arguments: object, disks: Sequence[Disk] = ()) -> Any:
        """Boot with `disks`, in this order, and give what phase(*arguments) returned; AssertionError with its output.

        MachineFailed when the machine did not come to its end.
        """
        environment = self._environment(phase.__module__)
        (self.job / PHASE).write_text(json.dumps([phase.__module__, phase.__name__, arguments]))
        (self.job / ANSWER).unlink(missing_ok=True)
        places = [self.root, cache_home()]
        disks = [self._state, *disks]
        status = run([sys.executable, "-m", "phases"], places, self.job, environment, LIMIT, disks)
        assert status == 0, f"{phase.__name__} in the guest:\n{(self.job / 'output').read_text(errors='replace')}"
        return json.loads((self.job / ANSWER).read_text())

    def _environment(self, module: str) -> dict[str, str]:
        """What the guest's Python needs; the bytecode of what it will import is compiled here, there it takes long."""
        places = os.pathsep.join(str(place) for place in (HERE, HERE / "inside", self.root))
        environment = {"PYTHONPATH": places, "PYTHONPYCACHEPREFIX": str(cache_home() / "bytecode")}
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        compiles = [sys.executable, "-c", f"import phases, {module}"]
        subprocess.run(compiles, env={**own, **environment}, check=True, timeout=60)
        return environment


def _in_guest() -> None:
    module, name, arguments = json.loads((JOB_IN_GUEST / PHASE).read_text())
    STATE.mkdir()
    subprocess.run(["mount", f"/dev/disk/by-id/virtio-{STATE_SERIAL}", STATE], check=True)
    answer = getattr(importlib.import_module(module), name)(*arguments)
    (JOB_IN_GUEST / ANSWER).write_text(json.dumps(answer))


if __name__ == "__main__":
    _in_guest()

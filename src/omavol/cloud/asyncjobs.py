"""CloudStack's asynchronous jobs, survived: a job's id is on disk before it is asked about for the first time.

A command that is sent may have happened whatever its answer was: the answer may be lost, the job forgotten, cancelled
by a restart of the management server. So a job only tells that it is over; what is true, the volume says when it is
read again (ECOSYSTEM: "never re-issue blindly").
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from omavol.cloud.volumes import CloudError

__all__ = ["Ended", "Jobs", "Ledger", "Pending"]

PENDING, SUCCEEDED = 0, 1  # JobInfo.Status; 2 failed, 3 cancelled
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds between two questions


class Pending(msgspec.Struct, frozen=True):
    """A job that was begun for a volume and whose end is not known."""

    command: str
    job: str


@dataclass(frozen=True)
class Ended:
    """How a job ended, as the cloud says: `error` is its text and `code` its number, empty and 0 after a success.

    `known` is false where the cloud knows no such job any more.
    """

    known: bool = True
    error: str = ""
    code: int = 0


class Ledger:
    """One file a volume with a pending job, under `folder`: written and synced before the first question."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remember(self, volume_id: str, pending: Pending) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.folder / f"{volume_id}.part"
        with part.open("wb") as file:
            file.write(msgspec.json.encode(pending))
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / volume_id)
        self._settle()

    def recall(self, volume_id: str) -> Pending | None:
        try:
            return msgspec.json.decode((self.folder / volume_id).read_bytes(), type=Pending)
        except FileNotFoundError:
            return None

    def forget(self, volume_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / volume_id).unlink()
            self._settle()

    def _settle(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Asks(Protocol):
    """What a job's end is asked of; None where the cloud knows no such job."""

    def job(self, job_id: str) -> dict[str, Any] | None: ...


class Jobs:
    """Waits for jobs by asking, less and less often, `limit` seconds at most."""

    def __init__(self, asks: Asks, limit: float) -> None:
        self._asks = asks
        self._limit = limit

    def wait(self, pending: Pending) -> Ended:
        """CloudError when it does not end in time: it may still happen, so it stays in the ledger."""
        deadline, pause = time.monotonic() + self._limit, FIRST_WAIT
        while True:
            told = self._asks.job(pending.job)
            if told is None:
                return Ended(known=False, error="the cloud has forgotten the job")
            status = told.get("jobstatus", PENDING)
            if status == SUCCEEDED:
                return Ended()
            if status != PENDING:
                result = told.get("jobresult") or {}
                return Ended(
                    error=str(result.get("errortext", "no reason given")), code=int(result.get("errorcode", 0))
                )
            if time.monotonic() + pause > deadline:
                raise CloudError(
                    f"{pending.command} has not ended within {self._limit:g} s (job {pending.job})",
                    advice=(
                        "It may still happen: the volume is looked at again before anything else is done with it.",
                    ),
                )
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_WAIT)

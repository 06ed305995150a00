"""What takes time in the fake, and what goes wrong: asynchronous jobs, each with the faults that were asked for.

A job's status is 0 while it runs, then 1 succeeded, 2 failed or 3 cancelled (JobInfo.java; 3 is newer than most
clients). Its effect and its status are two things: a fault parts them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from omavol.cloud.fake.model import INTERNAL, Refusal
from omavol.cloud.fake.qmp import Refused, Silent

__all__ = ["DELAYS", "Fault", "FaultKind", "Faults", "Job", "Jobs"]

# Seconds that each takes in a cloud of middling speed.
DELAYS = {
    "createVolume": 0.5,
    "attachVolume": 3.0,
    "detachVolume": 2.0,
    "resizeVolume": 1.0,
    "createSnapshot": 5.0,
    "revertSnapshot": 5.0,
    "deleteSnapshot": 1.0,
    "createTags": 0.2,
}
RESTARTED = "job cancelled because of management server restart or shutdown"


class FaultKind(StrEnum):
    FAILS = "fails"  # no effect, status 2
    FAILS_AFTER = "fails-after"  # the effect, then status 2
    CANCELLED = "cancelled"  # no effect, status 3
    RESTART = "restart"  # no effect, status 2 as a restart of the management server leaves it
    RESTART_AFTER = "restart-after"  # the same, but it had happened
    NEVER_ENDS = "never-ends"  # no effect, status 0 for ever
    VANISHES = "vanishes"  # the effect, but nobody knows the job
    LATE = "late"  # status 1 at once, the effect `seconds` later
    NO_DEVICE = "no-device"  # success as the API shows it, nothing appears in the machine
    WRONG_DEVICE = "wrong-device-id"  # deviceid one too high
    LOST_ANSWER = "lost-answer"  # done as asked, but the connection ends before the answer
    UNHEARD = "unheard"  # the connection ends before anything is done
    STATUS = "status"  # HTTP `code` with an HTML page, nothing done
    HALF = "half-json"  # done as asked, half of the answer
    SLOW = "slow"  # answered after `seconds`
    NO_CAPACITY = "no-capacity"  # no effect, job error 533


OF_THE_ANSWER = frozenset({FaultKind.LOST_ANSWER, FaultKind.UNHEARD, FaultKind.STATUS, FaultKind.HALF, FaultKind.SLOW})


class Fault(msgspec.Struct, kw_only=True):
    """The next `times` calls of `command` (any, if empty) meet it."""

    kind: FaultKind
    command: str = ""
    times: int = 1
    seconds: float = 1.0
    code: int = 503


class Faults:
    """Those that were asked for and not met yet, in order."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self.waiting.append(fault)

    def take(self, command: str, *, answer: bool) -> Fault | None:
        """The first for the command that spoils its answer, or its job; it counts as met."""
        for index, fault in enumerate(self.waiting):
            if fault.command in ("", command) and (fault.kind in OF_THE_ANSWER) is answer:
                fault.times -= 1
                if fault.times <= 0:
                    del self.waiting[index]
                return fault
        return None


@dataclass
class Job:
    id: str
    command: str
    about: str | None
    status: int = 0
    result: dict[str, Any] | None = None
    code: int = 0
    created: float = field(default_factory=time.time)

    def shown(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "jobid": self.id,
            "jobstatus": self.status,
            "jobresultcode": self.code,
            "jobprocstatus": 0,
            "cmd": f"org.apache.cloudstack.api.command.{self.command}Cmd",
            "jobinstancetype": "Volume",
        }
        if self.about is not None:
            facts["jobinstanceid"] = self.about
        if self.result is not None:
            facts |= {"jobresult": self.result, "jobresulttype": "object"}
        return facts


class Jobs:
    """Of one event loop. `pace` multiplies the delays; 0: a job is done when the first poll comes."""

    def __init__(self, faults: Faults, pace: float, changed: Callable[[], None]) -> None:
        self.all: dict[str, Job] = {}
        self._faults = faults
        self._pace = pace
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._hands = asyncio.Lock()  # the model takes one at a time

    def find(self, id: str) -> Job:
        if id not in self.all:
            raise Refusal(431, f"Invalid parameter jobid value={id}: entity does not exist")
        return self.all[id]

    def start(
        self,
        command: str,
        about: str | None,
        effect: Callable[[bool], dict[str, Any]],
        failed: Callable[[], None] = lambda: None,
    ) -> Job:
        """Begin; `effect` does it in a thread, with False without hardware; `failed` is called where it is not done."""
        job = Job(str(uuid.uuid4()), command, about)
        self.all[job.id] = job
        fault = self._faults.take(command, answer=False)
        task = asyncio.create_task(self._run(job, effect, failed, fault))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _run(
        self,
        job: Job,
        effect: Callable[[bool], dict[str, Any]],
        failed: Callable[[], None],
        fault: Fault | None,
    ) -> None:
        kind = fault.kind if fault else None
        await asyncio.sleep(DELAYS.get(job.command, 1.0) * self._pace)
        if kind is FaultKind.NEVER_ENDS:
            return
        if kind in (FaultKind.FAILS, FaultKind.CANCELLED, FaultKind.RESTART, FaultKind.NO_CAPACITY):
            failed()
            self._changed()
            self._fail(job, kind)
            return
        if kind is FaultKind.LATE:
            assert fault is not None
            job.status, job.result = 1, {"success": True}
            await asyncio.sleep(fault.seconds)
        try:
            async with self._hands:
                result = await asyncio.to_thread(effect, kind is not FaultKind.NO_DEVICE)
        except (Refusal, Refused, Silent, OSError) as error:
            failed()
            job.status, job.code = 2, INTERNAL
            code = error.code if isinstance(error, Refusal) else INTERNAL
            job.result = {"errorcode": code, "errortext": str(error)}
            return
        finally:
            self._changed()
        if kind in (FaultKind.FAILS_AFTER, FaultKind.RESTART_AFTER):
            self._fail(job, kind)
        elif kind is FaultKind.VANISHES:
            del self.all[job.id]
        elif kind is not FaultKind.LATE:
            if kind is FaultKind.WRONG_DEVICE and "deviceid" in result.get("volume", {}):
                result["volume"]["deviceid"] += 1
            job.status, job.result = 1, result

    def _fail(self, job: Job, kind: FaultKind) -> None:
        job.status = 3 if kind is FaultKind.CANCELLED else 2
        job.code = INTERNAL
        text = RESTARTED if kind in (FaultKind.RESTART, FaultKind.RESTART_AFTER) else f"Failed to {job.command}"
        code = 533 if kind is FaultKind.NO_CAPACITY else INTERNAL
        if kind is FaultKind.NO_CAPACITY:
            text = "Unable to find suitable primary storage when creating volume"
        job.result = {"errorcode": code, "errortext": text}

"""Times one thing against its peers: the same work, in turn, several rounds; medians and their ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["GIB", "Lane", "Outcome", "Race", "Sample", "command_lane", "processor_seconds"]

GIB = 1 << 30
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One run: wall seconds, processor seconds of the client and of the server, and how many units of work were done.

    A unit is what the row says: a pass, a request, a connection. `seconds` may be another cost that is to be small
    (bytes of memory), where a row says so.
    """

    seconds: float
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    work: float = 1.0

    @property
    def cost(self) -> float:
        """Of one unit."""
        return self.seconds / self.work


@dataclass(frozen=True)
class Lane:
    """One contender: `run` does the work once; `before` puts the world back, outside the clock.

    `family` is the peer's name without its release, for an aim against one of several peers. A lane that runs `aside`
    is shown, and nobody's peer.
    """

    name: str
    run: Callable[[], Sample]
    before: Callable[[], object] = lambda: None
    family: str = ""
    aside: bool = False


@dataclass(frozen=True)
class Outcome:
    """A finished race: every sample of every lane, the medians of which count."""

    ours: str
    samples: Mapping[str, Sequence[Sample]] = field(repr=False)
    families: Mapping[str, str]

    @property
    def rounds(self) -> int:
        return len(self.samples[self.ours])

    def cost(self, lane: str) -> float:
        """Median cost of one unit of work."""
        return statistics.median(sample.cost for sample in self.samples[lane])

    def cpu(self, lane: str, side: str) -> float:
        """Median processor seconds of `side` (client, server) for one unit of work."""
        return statistics.median(getattr(sample, f"{side}_cpu") / sample.work for sample in self.samples[lane])

    def peers(self, family: str = "") -> list[str]:
        """The peers of one family, or all."""
        return [lane for lane in self.families if lane != self.ours and family in ("", self.families[lane])]

    def best_peer(self, family: str = "") -> str:
        return min(self.peers(family), key=self.cost)

    def ratio(self, family: str = "") -> float:
        """How many times cheaper ours is than the best peer."""
        return self.cost(self.best_peer(family)) / self.cost(self.ours)

    def thriftiest_peer(self, side: str) -> str:
        return min(self.peers(), key=lambda lane: self.cpu(lane, side))

    def cpu_share(self, side: str) -> float:
        """Our processor time on `side` as a share of the thriftiest peer's."""
        return self.cpu(self.ours, side) / max(self.cpu(self.thriftiest_peer(side), side), 1 / TICK / 100)


class Race:
    """Every lane once unmeasured, then `rounds` times in a turning order; ours in the hands of the caller.

    There are as many rounds as `budget` seconds allow by the unmeasured one, between the least and the most.
    `catch_up` runs what comes before our next turn, `lap` is our turn, `finish` runs what is left.
    """

    def __init__(self, ours: Lane, peers: Sequence[Lane], *, budget: float, least: int, most: int) -> None:
        self.ours = ours
        self._lanes = [ours, *peers]
        self._samples: dict[str, list[Sample]] = {lane.name: [] for lane in self._lanes}
        start = time.perf_counter()
        for lane in self._lanes:
            lane.before()
            lane.run()
        self.rounds = max(least, min(most, int(budget / (time.perf_counter() - start)) - 1))
        self._order = self._turns()
        self._next: Lane | None = None
        self._step()

    def _turns(self) -> Iterator[Lane]:
        for number in range(self.rounds):
            turn = number % len(self._lanes)
            yield from self._lanes[turn:] + self._lanes[:turn]

    def _step(self) -> None:
        self._next = next(self._order, None)

    def _run(self, lane: Lane) -> Sample:
        sample = lane.run()
        self._samples[lane.name].append(sample)
        self._step()
        return sample

    def catch_up(self) -> None:
        """Run the peers whose turn is before our next one, and put our own world back."""
        while self._next is not None and self._next is not self.ours:
            self._next.before()
            self._run(self._next)
        self.ours.before()

    def lap(self) -> Sample:
        """Our turn."""
        return self._run(self.ours)

    def finish(self) -> Outcome:
        """Run what is left of the rounds."""
        while self._next is not None:
            self._next.before()
            self._run(self._next)
        families = {lane.name: lane.family for lane in self._lanes if not lane.aside}
        return Outcome(self.ours.name, self._samples, families)


def processor_seconds(pid: int) -> float:
    """User and system time of a living process, all its threads (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def command_lane(
    name: str,
    argv: Sequence[str],
    *,
    server: int,
    family: str = "",
    before: Callable[[], object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Lane:
    """A lane that runs a command to its end; `server` is the pid of the server it talks to."""

    def run() -> Sample:
        before_cpu = processor_seconds(server)
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{name}: {' '.join(argv)} ended with status {process.returncode}")
        return Sample(seconds, usage.ru_utime + usage.ru_stime, processor_seconds(server) - before_cpu)

    return Lane(name, run, before or (lambda: None), family)

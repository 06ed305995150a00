"""Times one thing against its peers: the same work, in turn, several rounds; medians and their ratio."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Lane", "Outcome", "Sample", "command_lane", "run_race"]

GIB = 1 << 30
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One run: wall seconds, and processor seconds of the client and of the server."""

    seconds: float
    client_cpu: float
    server_cpu: float


@dataclass(frozen=True)
class Lane:
    """One contender: `run` does the whole work once; `before` puts the world back, outside the clock."""

    name: str
    run: Callable[[], Sample]
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Outcome:
    """A finished race. A ratio above 1 means that ours is faster (or takes less processor time)."""

    title: str
    aim: float
    rounds: int
    samples: dict[str, list[Sample]] = field(repr=False)
    ours: str
    peers: Sequence[str]

    def median(self, lane: str) -> float:
        return statistics.median(sample.seconds for sample in self.samples[lane])

    @property
    def best_peer(self) -> str:
        return min(self.peers, key=self.median)

    @property
    def ratio(self) -> float:
        return self.median(self.best_peer) / self.median(self.ours)

    def cpu(self, lane: str, side: str) -> float:
        """Median processor seconds of `side`: client or server."""
        return statistics.median(getattr(sample, f"{side}_cpu") for sample in self.samples[lane])

    def cpu_share(self, side: str) -> float:
        """Our processor time on `side` as a share of the thriftiest peer's."""
        return self.cpu(self.ours, side) / min(self.cpu(peer, side) for peer in self.peers)

    @property
    def reaches_floor(self) -> bool:
        """CI's bar: half the aim. Whether the aim is reached is judged on a quiet machine."""
        return self.ratio >= self.aim / 2


def processor_seconds(pid: int) -> float:
    """User and system time of a living process, all its threads (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def command_lane(
    name: str, argv: Sequence[str], *, server: int | None, before: Callable[[], object] | None = None
) -> Lane:
    """A lane that runs a command to its end; `server` is the pid of the server it talks to."""

    def run() -> Sample:
        before_cpu = processor_seconds(server) if server else 0.0
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{name}: {' '.join(argv)} ended with status {process.returncode}")
        server_cpu = processor_seconds(server) - before_cpu if server else 0.0
        return Sample(seconds, usage.ru_utime + usage.ru_stime, server_cpu)

    return Lane(name, run, before or (lambda: None))


def run_race(title: str, *, aim: float, rounds: int, ours: Lane, peers: Sequence[Lane]) -> Outcome:
    """Run every lane once unmeasured, then `rounds` times in a turning order."""
    lanes = [ours, *peers]
    for lane in lanes:
        lane.before()
        lane.run()
    samples: dict[str, list[Sample]] = {lane.name: [] for lane in lanes}
    for number in range(rounds):
        turn = number % len(lanes)
        for lane in lanes[turn:] + lanes[:turn]:
            lane.before()
            samples[lane.name].append(lane.run())
    return Outcome(title, aim, rounds, samples, ours.name, [peer.name for peer in peers])

"""The stores, the race, the table at the end and its JSON."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.aims import Aim, seconds
from benchmarks.race import Lane, Outcome, Race

SHORT = os.environ.get("OMA_BENCH") == "short"
BUDGET = 5.0 if SHORT else 15.0  # seconds of a row, as far as its rounds go
ROUNDS = (3, 3) if SHORT else (5, 11)
SIZE = (256 if SHORT else 1536) << 20
RESULTS = Path(os.environ.get("OMA_BENCH_JSON", "bench-results/results.json"))
DISK = 12 << 30  # bytes of the loop-mounted ext4, sparse


@dataclass(frozen=True)
class Row:
    """A finished row of the table."""

    title: str
    outcome: Outcome
    aims: Sequence[Aim]
    show: Callable[[float], str]
    note: str

    def below_floor(self) -> list[str]:
        """The aims of which not half is reached, each with its figures."""
        return [
            f"{self.title}: {' against '.join(aim.columns(self.outcome, self.show))}, aim {aim.text}"
            for aim in self.aims
            if not aim.above_floor(self.outcome)
        ]


ROWS: list[Row] = []
_spent = 0.0


def spent() -> float:
    """The clock of pytest-benchmark: what our lane has cost so far, in seconds for each unit of work."""
    return _spent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "benchmarks" in item.path.parts:
            item.add_marker(pytest.mark.benchmark(timer=spent))
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A directory on tmpfs: page cache and nothing else."""
    path = Path(tempfile.mkdtemp(prefix="oma-bench-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="oma-bench-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def disk(memory: Path) -> Iterator[Path]:
    """A directory on ext4: loop-mounted with its image on tmpfs (root), else where this machine's disk is ext4."""
    backing, mounted = memory / "ext4", memory / "mounted"
    mounted.mkdir()
    with backing.open("wb") as file:
        file.truncate(DISK)
    made = subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard", "-O", "^has_journal", backing], capture_output=True)
    done = subprocess.run(["mount", "-o", "loop,noatime", backing, mounted], capture_output=True)
    if made.returncode == 0 and done.returncode == 0:
        yield mounted
        subprocess.run(["umount", mounted], check=True)
        backing.unlink()
        return
    path = Path(tempfile.mkdtemp(prefix="oma-bench-", dir="/var/tmp"))
    kind = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip()
    if kind != "ext2/ext3":
        path.rmdir()
        pytest.skip(f"no ext4: loop devices want root, and /var/tmp is on {kind}")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session", params=["tmpfs", "ext4"])
def store(request: pytest.FixtureRequest) -> Path:
    """Where the images of a row are: each row that differs by it runs on both."""
    path: Path = request.getfixturevalue("memory" if request.param == "tmpfs" else "disk")
    return path


@pytest.fixture
def on(store: Path, memory: Path) -> str:
    """How a row's title says its store."""
    return "" if store == memory else ", ext4"


def write_image(path: Path, size: int, piece: int = 1 << 20) -> Path:
    """Bytes without a zero page: a random MiB, shifted so that no two are alike, written `piece` bytes at a time."""
    block = os.urandom(1 << 20)
    with path.open("wb", buffering=0) as file:
        for number in range(size >> 20):
            shift = number * 4099 % len(block)
            shifted = memoryview(block[shift:] + block[:shift])
            for at in range(0, len(block), piece):
                file.write(shifted[at : at + piece])
    return path


@pytest.fixture(scope="session")
def image(memory: Path) -> Path:
    """SIZE bytes on tmpfs, for reading."""
    return write_image(memory / "image", SIZE)


@pytest.fixture(scope="session")
def stored(store: Path, memory: Path, request: pytest.FixtureRequest) -> Path:
    """The same in the store of the row, in its page cache."""
    source: Path = request.getfixturevalue("image")
    return source if store == memory else write_image(store / "image", SIZE)


@pytest.fixture(scope="session")
def scratch(store: Path) -> Iterator[Path]:
    """SIZE bytes in the store of the row, to be written."""
    path = write_image(store / "scratch", SIZE)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def scratch_in_blocks(store: Path) -> Iterator[Path]:
    """The same, come to be in blocks of 4 KiB as a guest writes them.

    ext4 keeps a MiB written at once in one large folio, and looks through all the blocks of a folio before it writes
    one: half the server's time in a run of 4 KiB, whoever serves.
    """
    path = write_image(store / "blocks", SIZE, piece=4096)
    yield path
    path.unlink()


@pytest.fixture
def race(benchmark: Any) -> Callable[..., Outcome]:
    """Run the lanes under pytest-benchmark, keep the row, and fail where not half of an aim is reached.

    pytest-benchmark does not interleave. So our lane is what it times, in pedantic mode; the peers whose turn comes
    before ours run in its setup, unmeasured by it; and its clock is what our lane cost for one unit of work.
    """

    def lap(contest: Race) -> None:
        global _spent
        _spent += contest.lap().cost

    def run(
        title: str,
        *,
        ours: Lane,
        peers: Sequence[Lane],
        aims: Sequence[Aim],
        show: Callable[[float], str] = seconds,
        note: Callable[[Outcome], str] | None = None,
    ) -> Outcome:
        contest = Race(ours, peers, budget=BUDGET, least=ROUNDS[0], most=ROUNDS[1])

        def before() -> tuple[tuple[Race], dict[str, object]]:
            contest.catch_up()
            return (contest,), {}

        benchmark.pedantic(lap, setup=before, rounds=contest.rounds)
        outcome = contest.finish()
        row = Row(title, outcome, aims, show, note(outcome) if note else "")
        ROWS.append(row)
        benchmark.extra_info.update(as_json(row))
        assert not row.below_floor(), "\n".join(row.below_floor())
        return outcome

    return run


def as_json(row: Row) -> dict[str, object]:
    outcome = row.outcome
    return {
        "row": row.title,
        "cost": {lane: outcome.cost(lane) for lane in outcome.samples},
        "client_cpu": {lane: outcome.cpu(lane, "client") for lane in outcome.samples},
        "server_cpu": {lane: outcome.cpu(lane, "server") for lane in outcome.samples},
        "ratio": outcome.ratio(),
        "rounds": outcome.rounds,
        "aims": [
            {"aim": aim.text, "measured": aim.measured(outcome), "reached": aim.reached(outcome)} for aim in row.aims
        ],
        "note": row.note,
        "samples": {lane: [vars(sample) for sample in samples] for lane, samples in outcome.samples.items()},
    }


def table() -> list[str]:
    """A line for each aim of each row: work, ours, the peer, what is measured, the aim and whether it is reached."""
    lines = [("", "ours", "best peer", "measured", "aim", "")]
    for row in ROWS:
        for number, aim in enumerate(row.aims):
            ours, peer, measured = aim.columns(row.outcome, row.show)
            verdict = (
                "reached" if aim.reached(row.outcome) else "under" if aim.above_floor(row.outcome) else "UNDER HALF"
            )
            lines.append((row.title if number == 0 else "", ours, peer, measured, aim.text, verdict))
        if row.note:
            lines.append((f"  {row.note}", *[""] * 5))
    whole = [line for line in lines if any(line[1:])]
    widths = [max(len(line[column]) for line in whole) for column in range(6)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        if any(line[1:])
        else line[0]
        for line in lines
    ]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        rounds = sorted({row.outcome.rounds for row in ROWS})
        terminalreporter.section(f"side by side: medians of {' to '.join(map(str, {rounds[0], rounds[-1]}))} rounds")
        for line in table():
            terminalreporter.write_line(line)


def pytest_sessionfinish() -> None:
    if ROWS:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps([as_json(row) for row in ROWS], indent=1) + "\n")

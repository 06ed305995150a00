"""The shared image, the race, the table at the end and its JSON."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.race import GIB, Lane, Outcome, run_race

SHORT = os.environ.get("OMA_BENCH") == "short"
ROUNDS = 3 if SHORT else 9
SIZE = 2 * GIB
OUTCOMES: list[Outcome] = []
NOTES: dict[str, str] = {}


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
def image(memory: Path) -> Path:
    """2 GiB without a zero page: a random MiB, shifted so that no two MiB are alike."""
    path = memory / "image"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            shift = number * 4099 % len(block)
            file.write(block[shift:] + block[:shift])
    return path


@pytest.fixture
def race() -> Callable[..., Outcome]:
    """Run the lanes, keep the outcome for the table, and fail under half the aim."""

    def run(
        title: str, *, aim: float, ours: Lane, peers: list[Lane], note: Callable[[Outcome], str] | None = None
    ) -> Outcome:
        outcome = run_race(title, aim=aim, rounds=ROUNDS, ours=ours, peers=peers)
        OUTCOMES.append(outcome)
        NOTES[title] = note(outcome) if note else ""
        return outcome

    return run


def rows() -> list[dict[str, object]]:
    return [
        {
            "figure": outcome.title,
            "ours": outcome.median(outcome.ours),
            "best_peer": outcome.best_peer,
            "peers": {peer: outcome.median(peer) for peer in outcome.peers},
            "ratio": outcome.ratio,
            "aim": outcome.aim,
            "rounds": outcome.rounds,
            "note": NOTES[outcome.title],
            "samples": {name: [vars(sample) for sample in samples] for name, samples in outcome.samples.items()},
        }
        for outcome in OUTCOMES
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not OUTCOMES:
        return
    terminalreporter.section("medians of interleaved rounds, side by side")
    for outcome in OUTCOMES:
        peers = ", ".join(f"{peer} {outcome.median(peer):.3f} s" for peer in outcome.peers)
        terminalreporter.write_line(
            f"{outcome.title}\n    ours {outcome.median(outcome.ours):.3f} s; {peers}; "
            f"{outcome.ratio:.2f}x the best peer (aim {outcome.aim}x, {outcome.rounds} rounds) {NOTES[outcome.title]}"
        )


def pytest_sessionfinish() -> None:
    if OUTCOMES:
        results = Path("bench-results")
        results.mkdir(exist_ok=True)
        (results / "results.json").write_text(json.dumps(rows(), indent=1) + "\n")

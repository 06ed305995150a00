"""The compiled codec under a coverage-guided fuzzer: the corpus of the repository, then a few seconds of new input.

The targets and their laws are in wire_targets.c; `make fuzz` runs the same ones for hours with clang's libFuzzer.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGETS = sorted(path.name for path in (HERE / "corpus").iterdir())
SECONDS = 3
LIMIT = 300 * 1024  # bytes of the corpus: a test reads all of it


@pytest.fixture(scope="session")
def fuzzer() -> Path:
    """The targets, compiled by gcc under AddressSanitizer and UBSan with coverage (some 20 s)."""
    subprocess.run([ROOT / "scripts" / "fuzz", "build", sys.executable], check=True, timeout=170)
    return ROOT / "build" / "fuzz" / "standalone"


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_law_of_the_codec(fuzzer, target, tmp_path):
    environment = {**os.environ, "FUZZ_TARGET": target}
    argv = [fuzzer, str(SECONDS), str(os.getpid()), HERE / "corpus" / target]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    found = tmp_path / "fuzz-found"
    assert done.returncode == 0, f"{done.stderr}\ninput: {found.read_bytes().hex() if found.exists() else 'none'}"
    files, mutations, edges = (int(part.split()[0]) for part in done.stdout.split(","))
    assert files == len(list((HERE / "corpus" / target).iterdir()))
    assert mutations > 1000 and edges > 15, done.stdout


def test_the_corpus_is_small_and_covers_every_target():
    files = [path for path in (HERE / "corpus").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    assert {path.parent.name for path in files} == {"server", "client", "requests", "replies"}

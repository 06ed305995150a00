"""`omavol bench` for people and for programs."""

import json
import re
import signal
import subprocess

import pytest
from benchmarks.servers import OMAVOL

from omavol.cli.manual import sections


def bench(*arguments, **options):
    return subprocess.run(
        [OMAVOL, "bench", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False, **options
    )


def test_text_tells_rates_latencies_and_the_clients_own_cost(uri):
    done = bench(uri, "--depth", 16, "--seconds", 0.2)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  [\d,]+ requests/s, [\d,.]+ MiB/s, [\d,]+ requests in 0\.\d\d s$", done.stdout, re.MULTILINE)
    assert re.search(r"latency  mean \S+ us  p50 .* p99\.9 .* max ", done.stdout)
    assert re.search(r"this client took \d+% of a processor", done.stdout)


@pytest.mark.parametrize("operation", ["randread", "randrw", "status", "connect", "write"])
def test_json_has_the_documented_fields_and_no_other(uri, operation):
    done = bench(uri, "--op", operation, "--seconds", 0.1, "--write", "--flush", "--json")
    document = json.loads(done.stdout)
    blocks = next(section for section in sections("bench") if section.title == "JSON OUTPUT").blocks
    lines = [line for verbatim, block in blocks if verbatim for line in block]
    documented = {name for line in lines for name in re.split(r"\s{2,}", line)[0].split()}
    assert document.keys() <= documented
    assert documented - document.keys() <= {"extents", "read", "write"}
    assert document["latency_ns"].keys() == {"min", "mean", "p50", "p90", "p99", "p99.9", "max"}
    assert document["cpu"].keys() == {"user", "system", "awake", "share"}
    assert document["requests"] > 0
    assert document["requests_per_second"] == pytest.approx(document["requests"] / document["seconds"], rel=0.01)
    if operation == "randrw":
        assert document["read"]["requests"] + document["write"]["requests"] == document["requests"]


@pytest.mark.parametrize("operation", ["write", "randwrite", "randrw"])
def test_nothing_is_overwritten_unless_that_is_allowed(uri, image, operation):
    before = image.read_bytes()
    done = bench(uri, "--op", operation)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {operation} overwrites what the export holds. If that is meant, add --write.\n"
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("--op", "dance"), "'dance' is not one of", 2),
        (("--size", "4x"), "no size from 1 to 32M", 2),
        (("--size", "33M"), "no size from 1 to 32M", 2),
        (("--depth", "0"), "--depth", 2),
        (("--seconds", "-1"), "seconds above 0", 2),
        (("--size", "8M"), "too few for requests of 8388608", 1),
        (("--once",), "has no end", 1),
    ],
)
def test_bad_input_is_one_line(uri, arguments, words, status):
    done = bench(uri, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr.splitlines()[-1]


def test_failed_requests_are_told_and_end_with_1(start, image):
    broken = start("nbdkit", "-f", "-U", "SOCK", "--filter=error", "file", image, "error=EIO", "error-pread-rate=100%")
    done = bench(broken, "--seconds", 0.1)
    assert done.returncode == 1
    assert re.fullmatch(r"Error: \d+ requests failed; the first: READ at offset \d+ was answered by EIO\n", done.stderr)


def test_an_interrupt_ends_it_early_with_what_was_counted(uri):
    process = subprocess.Popen(
        [OMAVOL, "bench", uri, "--seconds", "60", "--json"], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert json.loads(said)["interrupted"] is True
    assert json.loads(said)["seconds"] < 10

"""How filters are written: each form is read, each mistake is named with how to write it, and both ends take them."""

import subprocess

import pytest
from benchmarks.servers import OMAVOL

from omavol.nbd.wire import Command, Error
from omavol.serve.client import ControlClient
from omavol.serve.errors import ControlRefused
from omavol.serve.filters import FILTERS_MOST, BadFilter, parse, parse_all
from raw_client import Raw

EVERY = {0: 0.01, 1: 0.01, 3: 0.01, 4: 0.01, 5: 0.01, 6: 0.01, 7: 0.01}

GOOD = {
    "delay:10ms": {"kind": "delay", "delays": EVERY},
    "delay:10ms,read=1.5s,open=2": {"kind": "delay", "delays": EVERY | {0: 1.5, 8: 2.0}},
    "delay:zero=250us,fast-zero=no": {"kind": "delay", "delays": {6: 0.00025}, "fast_zero": False},
    "error": {"kind": "error", "error": 5, "commands": []},
    "error:ENOSPC,write,zero,next=2": {"kind": "error", "error": 28, "commands": [1, 6], "next": 2},
    "error:probability=10%": {"kind": "error", "error": 5, "commands": [], "probability": 0.1},
    "error:read, every=3": {"kind": "error", "error": 5, "commands": [0], "every": 3},
    "error:range=1M-2m": {"kind": "error", "error": 5, "commands": [], "range": (1 << 20, 2 << 20)},
    "rate:100M": {"kind": "rate", "rates": (100 << 20, 100 << 20)},
    "rate:write=1K": {"kind": "rate", "rates": (0, 1024)},
    "pause": {"kind": "pause"},
}

BAD = {
    "": "there is no filter ''",
    "slow:1s": "there is no filter 'slow'",
    "delay": "it says no time",
    "delay:": "an item is empty",
    "delay:10min": "'10min' is no time",
    "delay:reed=10ms": "'reed' is no command; there are read, write",
    "delay:-1s": "'-1s' is no time",
    "delay:2h": "'2h' is no time",
    "delay:9999s": "9999s is longer than 3600s, use pause",
    "delay:1s,fast-zero=maybe": "'maybe' is neither yes nor no",
    "error:EWHAT": "'EWHAT' is no command",
    "error:every=0": "'0' is no count",
    "error:every=2,next=1": "of every, next and probability one is enough",
    "error:probability=1.5": "'1.5' is no probability",
    "error:range=2M-1M": "'2M-1M' is no range",
    "error:range=5": "'5' is no range",
    "error:often=1": "'often' is nothing that it knows",
    "rate": "it says no rate",
    "rate:0": "it says no rate",
    "rate:fast": "'fast' is no number of bytes",
    "rate:99999999T": "is no number of bytes",
    "rate:trim=1M": "'trim' has no rate",
    "pause:now": "it takes nothing behind its name",
}


@pytest.mark.parametrize("spec", GOOD)
def test_a_filter_is_read(spec):
    assert parse(spec) == GOOD[spec]


@pytest.mark.parametrize("spec", BAD)
def test_a_mistake_is_named(spec):
    with pytest.raises(BadFilter) as caught:
        parse(spec)
    assert BAD[spec] in str(caught.value) and repr(spec) in str(caught.value)
    assert caught.value.advice


def test_a_plain_number_is_seconds():
    assert parse("delay:read=10") == {"kind": "delay", "delays": {0: 10.0}}


def test_there_is_a_most():
    assert len(parse_all(["pause"] * FILTERS_MOST)) == FILTERS_MOST
    with pytest.raises(BadFilter):
        parse_all(["pause"] * (FILTERS_MOST + 1))


def test_serve_takes_filters_for_all_its_exports(command, place, image):
    command("--unix", place / "s", "--filter", "error:ENOSPC,write", f"a={image}", f"b={image}", lines=2)
    for name in "ab":
        with Raw(place / "s", name) as client:
            assert client.ask(Command.WRITE, 0, 512, bytes(512)) == Error.ENOSPC
            assert len(client.read(0, 512)) == 512


def test_serve_says_what_is_wrong_with_a_filter(image):
    argv = [OMAVOL, "serve", "--filter", "delay:soon", str(image)]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert said.returncode == 1
    assert said.stderr.strip() == (
        "Error: the filter 'delay:soon': 'soon' is no time. Write it as delay:10ms or delay:read=10ms,write=5ms."
    )


def test_the_control_socket_changes_filters_of_a_running_export(command, place, image):
    command("--unix", place / "s", "--control", place / "c")
    with ControlClient(place / "c", timeout=20) as control, image.open("r+b") as file:
        control.add("web01", file.fileno(), image.stat().st_size)
        with Raw(place / "s", "web01") as client:
            done = control.set_filters("web01", ["error:EPERM,read", "delay:1ms"])
            assert done.export.filters == ["error:EPERM,read", "delay:1ms"]
            assert client.ask(Command.READ, 0, 512) == Error.EPERM
            assert control.list().exports[0].filters == ["error:EPERM,read", "delay:1ms"]
            with pytest.raises(ControlRefused) as caught:
                control.set_filters("web01", ["nonsense"])
            assert caught.value.code == "bad_filter"
            assert control.set_filters("web01", []).export.filters == []
            assert client.ask(Command.READ, 0, 512) == 0

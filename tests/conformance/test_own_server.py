"""`omavol serve` passes every rule it can be judged by: writable, read-only, and as a device with large blocks."""

import json
import subprocess

import pytest
from benchmarks.servers import OMAVOL

SERVERS = {
    "writable": f"{OMAVOL} serve --unix {{socket}} {{image}}",
    "read-only": f"{OMAVOL} serve --unix {{socket}} --read-only {{image}}",
    "two exports": f"{OMAVOL} serve --unix {{socket}} {{image}} other={{image}}",
}


def judge(*arguments: str) -> dict:
    done = subprocess.run([OMAVOL, "conformance", "--json", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode < 2, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", SERVERS)
def test_our_server_fails_no_rule(kind):
    told = judge("--server", SERVERS[kind])
    assert [(result["check"], result["came"]) for result in told["results"] if result["outcome"] == "fail"] == []
    assert told["status"] == 0 and told["ended"] is None


def test_contexts_of_another_export_are_judged_where_there_is_another():
    told = judge("--server", SERVERS["two exports"], "--rule", "H42")
    assert [result["outcome"] for result in told["results"]] == ["pass"]

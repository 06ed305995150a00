"""`omavol serve` passes every rule it can be judged by: writable and read-only."""

import pytest
from benchmarks.servers import OMAVOL
from judged import failures, judge

SERVERS = {
    "writable": f"{OMAVOL} serve --unix {{socket}} {{image}}",
    "read-only": f"{OMAVOL} serve --unix {{socket}} --read-only {{image}}",
}
TWO_EXPORTS = f"{OMAVOL} serve --unix {{socket}} {{image}} other={{image}}"


@pytest.mark.parametrize("kind", SERVERS)
def test_our_server_fails_no_rule(kind):
    told = judge("--server", SERVERS[kind])
    assert failures(told) == {}
    assert told["status"] == 0 and told["ended"] is None


def test_contexts_of_another_export_are_judged_where_there_is_another():
    told = judge("--server", TWO_EXPORTS, "--rule", "H42")
    assert [result["outcome"] for result in told["results"]] == ["pass"]

"""Our clients pass every rule they give an occasion for."""

import pytest
from benchmarks.servers import OMAVOL
from judged import failures, judge
from record import recorded
from targets import CLIENTS

INFO = f"{OMAVOL} info --timeout 2"
COPIES = {target.program: target for target in CLIENTS if target.peers is None}
SHUTDOWN = "shuts-down"


def test_info_fails_no_rule_of_the_handshake():
    assert failures(judge("--timeout", "15", "--section", "handshake", "--client", f"{INFO} {{uri}}")) == {}


def test_info_takes_no_list_that_overflows():
    told = judge("--timeout", "15", "--section", "NBD_REP_SERVER", "--client", f"{INFO} --list {{uri}}")
    assert [result["outcome"] for result in told["results"][:1]] == ["pass"]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_fails_no_rule(copy):
    """As recorded; test_conformance_peers holds the record against the program."""
    assert {check for check, outcome in recorded(COPIES[copy]).items() if outcome.startswith("fail")} == set()


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_leaves_a_server_that_shuts_down_by_disc(copy):
    """C6."""
    told = judge(*COPIES[copy].arguments(), "--rule", "C6")
    assert SHUTDOWN not in failures(told)

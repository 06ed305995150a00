"""The judge of clients sees each fault of a client, and none where there is none."""

import sys
from pathlib import Path

import pytest

from omavol.conformance.clients.judge import judge
from omavol.conformance.clients.scenario import scenarios

CLIENT = f"{sys.executable} {Path(__file__).with_name('faulty_client.py')} {{uri}}"
FAULTS = {
    **{fault: f"{fault.split()[0]}-observed" for fault in ("H2", "C7", "C9", "C10", "C13", "C13 data", "C13 twice")},
    **{fault: f"{fault.split()[0]}-observed" for fault in ("C14", "C14 DF", "C15", "C16", "C17", "X5")},
    **dict.fromkeys(("signal", "hang", "status"), "everything"),
}


def failed(fault, names=("everything",), timeout=15.0):
    chosen = [scenario for scenario in scenarios() if scenario.name in names]
    results = judge(f"{CLIENT} '{fault}'", chosen, timeout=timeout)
    return {result.check.name: result.came for result in results if result.outcome == "fail"}


def test_a_client_without_a_fault_fails_no_rule():
    assert failed("none") == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault):
    found = failed(fault, timeout=3.0 if fault == "hang" else 15.0)
    also = {"C15-observed"} if fault == "C16" else set()  # what is above the maximum is above this export, too
    assert set(found) <= {FAULTS[fault], "everything"} | also and FAULTS[fault] in found, found


def test_a_client_that_takes_an_error_for_success_is_seen():
    """It looks at no error, and at no magic: whatever ought to end in failure ends in success."""
    names = ("unknown-export", "unknown-error", "wrong-magic")
    assert set(failed("none", names)) == {"unknown-error", "wrong-magic"}


def test_every_scenario_expects_something_of_a_client():
    for scenario in scenarios():
        assert scenario.sentence and scenario.section and scenario.name
        assert scenario.expected != "success" or scenario.group == "Servers that keep every rule"

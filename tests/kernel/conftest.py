"""Tests under inside/ run in a virtual machine: one boot for all of them, their reports as if they had run here.

Tests beside this file run here; what must outlast a reboot boots a `machine` of its own (phases.py).
OMA_NO_VM=1 leaves them out, where no machine can be had; without it a machine that does not boot fails every one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import cache_home
from machine import MachineFailed, run
from phases import Machine

INSIDE = Path(__file__).parent / "inside"
IN_GUEST = "OMA_GUEST" in os.environ
JOB_IN_GUEST = Path("/run/job")
LIMIT = 1500.0  # seconds for boot and all tests
STARTED_INSIDE = (  # by the tests, as programs of their own
    "import omavol.cli.serve, omavol.cli.serving, omavol.cli.daemon, omavol.daemon.house, omavol.cloud.fake.api, cs"
)
_reports: dict[str, list[pytest.TestReport]] | None = None


def _is_inside(item: pytest.Item) -> bool:
    return INSIDE in item.path.parents


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(0))  # each boot has its own limit
        if _is_inside(item) and not IN_GUEST:
            item.add_marker(pytest.mark.timeout(0))  # the first one waits for the whole boot
            if os.environ.get("OMA_NO_VM"):
                item.add_marker(pytest.mark.skip(reason="OMA_NO_VM: no virtual machine here"))


@pytest.fixture(scope="module")
def machine(pytestconfig: pytest.Config) -> Iterator[Machine]:
    """A machine that a module's tests boot as often as they need."""
    if os.environ.get("OMA_NO_VM"):
        pytest.skip("OMA_NO_VM: no virtual machine here")
    with tempfile.TemporaryDirectory(prefix="oma-job-") as place:
        yield Machine(pytestconfig.rootpath, Path(place))


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Outside: give the reports that came back from the guest instead of running the test."""
    global _reports
    if IN_GUEST or not _is_inside(item) or os.environ.get("OMA_NO_VM"):
        return None
    if _reports is None:
        _reports = _run_in_guest(item.config, [each for each in item.session.items if _is_inside(each)])
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports[item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the guest: send each report out."""
    if IN_GUEST:
        data = _config.hook.pytest_report_to_serializable(config=_config, report=report)
        with (JOB_IN_GUEST / "reports").open("a") as file:
            file.write(json.dumps(data, default=str) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    global _config
    _config = config


_config: pytest.Config


def _bytecode(config: pytest.Config, argv: list[str]) -> dict[str, str]:
    """Compile here what the guest will import; there it takes minutes. What the guest's environment needs for it."""
    prefix = {"PYTHONPYCACHEPREFIX": str(cache_home() / "bytecode")}
    environment = {**os.environ, **prefix, "OMA_GUEST": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for command in ([*argv, "--collect-only"], [sys.executable, "-c", STARTED_INSIDE]):
        subprocess.run(command, cwd=config.rootpath, env=environment, check=True, capture_output=True, timeout=120)
    return prefix


def _run_in_guest(config: pytest.Config, items: list[pytest.Item]) -> dict[str, list[pytest.TestReport]]:
    reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="oma-job-") as place:
        job = Path(place)
        nodes = [item.nodeid for item in items]
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120", *nodes]
        failure = ""
        try:
            status = run(argv, [config.rootpath, cache_home()], job, _bytecode(config, argv), LIMIT)
            failure = f"pytest in the guest ended with status {status}:\n{(job / 'output').read_text(errors='replace')}"
        except (MachineFailed, RuntimeError) as error:
            failure = str(error)
        if (job / "reports").exists():
            for line in (job / "reports").read_text().splitlines():
                report = config.hook.pytest_report_from_serializable(config=config, data=json.loads(line))
                reports[report.nodeid].append(report)
    for item in items:
        if not any(report.when == "teardown" for report in reports[item.nodeid]):
            where = {"nodeid": item.nodeid, "location": item.location, "keywords": {}, "when": "call"}
            reports[item.nodeid].append(pytest.TestReport(outcome="failed", longrepr=failure, **where))
    return reports

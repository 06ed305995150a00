"""The command line against a running control plane: what a person types and reads."""

from __future__ import annotations

import json
import signal

import pytest
from processes import omactl, serve


@pytest.fixture
async def served(world):
    await world.stop()
    async with serve(world) as running:
        yield running
    await world.start()


def at(served):
    return ("--url", served.url, "--state", served.state)


async def test_from_discovery_to_a_finished_replication(served):
    status, out, errors = await omactl("discover", *at(served))
    assert (status, errors) == (0, "") and "web01" in out
    status, out, errors = await omactl("replicate", *at(served), "--follow", "web01")
    assert status == 0, errors
    assert "Replication Completed of web01: completed" in out and "Comparing source and destination" in out
    job_id = out.split()[0]
    status, out, _ = await omactl("jobs", *at(served), "--json")
    assert [job["job_id"] for job in json.loads(out)["jobs"]] == [job_id]
    status, out, _ = await omactl("jobs", *at(served))
    assert status == 0 and job_id in out and out.startswith("JOB ")
    status, out, _ = await omactl("job", *at(served), job_id)
    assert status == 0 and "digest" in out
    status, out, _ = await omactl("contexts", *at(served))
    assert "ready_for_failover" in out
    status, out, errors = await omactl("cancel", *at(served), job_id)
    assert status == 1 and "[job_ended]" in errors
    status, out, _ = await omactl("link", *at(served))
    assert out.startswith(f"{served.url}/login?code=")


async def test_errors_are_one_line_and_advice(served, tmp_path):
    status, out, errors = await omactl("replicate", *at(served), "nobody")
    assert (status, out) == (1, "") and "[machine_unknown]" in errors
    status, _, errors = await omactl("jobs", "--url", served.url, "--state", tmp_path)
    assert status == 1 and "no token" in errors
    (tmp_path / "token").write_text("wrong")
    status, _, errors = await omactl("jobs", "--url", served.url, "--token-file", tmp_path / "token")
    assert status == 1 and "[unauthorized]" in errors
    status, _, errors = await omactl("jobs", "--url", "http://127.0.0.1:1", "--state", served.state)
    assert status == 1 and "Is `omactl serve` running?" in errors
    port = served.url.rpartition(":")[2]
    status, _, errors = await omactl("serve", "--port", port, "--state", tmp_path)
    assert status == 1 and "Address already in use" in errors and len(errors.splitlines()) == 1
    status, _, errors = await omactl("serve", "--port", "0", "--state", served.state)
    assert status == 1 and "another omactl works" in errors and len(errors.splitlines()) == 1
    (tmp_path / "oma.sqlite").write_text("this is no database, but long enough to be looked at")
    status, _, errors = await omactl("serve", "--port", "0", "--state", tmp_path)
    assert status == 1 and "database cannot be used" in errors and len(errors.splitlines()) == 1
    status, _, errors = await omactl("serve", "--port", "0", "--state", tmp_path, "--database", "mysql+nodriver://x/y")
    assert status == 1 and "database cannot be used" in errors and len(errors.splitlines()) == 1
    status, _, errors = await omactl("serve", "--source", "lab", "--source-token-file", tmp_path / "token")
    assert status == 2 and "NAME=URL" in errors


async def test_serve_says_where_it_is_and_ends_cleanly(served):
    assert any("admin token" in line for line in served.lines)
    served.process.send_signal(signal.SIGTERM)
    assert await served.process.wait() == 0
    log = (await served.process.stderr.read()).decode()
    assert "Job recovery completed" in log and "Health monitor started" in log
    assert "Traceback" not in log


async def test_migrate_does_it_once_and_says_how_it_stands(tmp_path):
    status, out, _ = await omactl("migrate", "--status", "--state", tmp_path / "new")
    assert status == 1 and "missing" in out
    status, out, _ = await omactl("migrate", "--state", tmp_path / "new")
    assert status == 0 and "applied 20261124120000" in out
    status, out, _ = await omactl("migrate", "--state", tmp_path / "new")
    assert out == "The database is current (0 revisions applied now).\n"
    status, out, _ = await omactl("migrate", "--status", "--state", tmp_path / "new")
    assert status == 0 and "missing" not in out
    (tmp_path / "broken").write_text("this is no database, but long enough to look at")
    url = f"sqlite+aiosqlite:///{tmp_path}/broken"
    status, _, errors = await omactl("migrate", "--database", url)
    assert status == 1 and "cannot be used" in errors and len(errors.splitlines()) == 1
    status, _, errors = await omactl("migrate", "--database", "nonsense")
    assert status == 1 and len(errors.splitlines()) == 1


async def test_the_version_answers_before_anything_is_imported():
    status, out, _ = await omactl("--version", PYTHONPROFILEIMPORTTIME="")
    assert status == 0 and out.startswith("omactl ")

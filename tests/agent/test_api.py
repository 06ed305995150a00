"""What the source API tells and refuses, beside replications."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess

import httpx2
import pytest

from agent_world import OMAVOL
from omavol.client.problem import ProblemError
from omavol.client.source import SourceClient
from omavol.schema.source import Cleanup, Discover, PowerState, SourceStatus
from source_machines import MIB

ROUTES = (
    ("GET", "/api/v1/version"),
    ("POST", "/api/v1/discover"),
    ("POST", "/api/v1/replicate"),
    ("GET", "/api/v1/replications"),
    ("GET", "/api/v1/progress/x"),
    ("GET", "/api/v1/status/x"),
    ("DELETE", "/api/v1/replications/x"),
    ("PATCH", "/api/v1/replications/x"),
    ("POST", "/api/v1/replications/x/commit"),
    ("POST", "/api/v1/replications/x/abandon"),
    ("GET", "/api/v1/replications/x/disks/y/digests"),
    ("GET", "/api/v1/events"),
    ("POST", "/api/v1/cleanup"),
    ("GET", "/nowhere"),
)


@pytest.fixture
async def http(agent, client):
    """Plain HTTP to the agent, with its token."""
    headers = {"Authorization": f"Bearer {agent.token}"}
    async with httpx2.AsyncClient(base_url=agent.url, headers=headers, trust_env=False) as http:
        yield http


async def test_the_token_is_made_at_the_first_start_for_its_owner_alone(agent, client):
    assert stat.S_IMODE((agent.state / "token").stat().st_mode) == 0o600
    assert str(agent.state / "token") in agent.log.read_text()
    assert agent.token not in agent.log.read_text()


async def test_every_route_but_health_wants_the_token(http):
    for given in (None, "Bearer wrong", "Basic x", "Bearer"):
        headers = {"Authorization": given} if given else {}
        async with httpx2.AsyncClient(base_url=http.base_url, headers=headers, trust_env=False) as stranger:
            for method, path in ROUTES:
                answer = await stranger.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (401, "not_authorised"), (method, path)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["www-authenticate"] == "Bearer"
            assert (await stranger.get("/api/v1/health")).json()["status"] == "healthy"


async def test_version_names_features(client):
    version = await client.version()
    assert {"cancel", "commit", "digests", "events", "rate-limit"} <= set(version.features)
    assert version.agent_id


async def test_discovery_describes_machines_as_bytes_and_ids(client, machine):
    (found,) = (await client.discover(Discover(vcenter="ignored", username="u", password="p"))).vms
    assert (found.name, found.path, found.power_state) == ("web01", "/web01", PowerState.ON)
    assert [(disk.id, disk.capacity_bytes, disk.unit_number) for disk in found.disks] == [
        ("disk-2000", 32 * MIB, 0),
        ("disk-2001", 8 * MIB + 65536, 1),
    ]
    assert all(disk.tracks_changes for disk in found.disks)


async def test_discovery_filters_by_parts_of_names(client):
    assert [machine.name for machine in (await client.discover(Discover(filter="nope, WEB"))).vms] == ["web01"]
    assert (await client.discover(Discover(filter="db"))).vms == []


async def test_a_broken_machine_is_a_problem_of_the_answer_and_hides_no_other(client, folder):
    (folder / "inventory/broken").mkdir()
    (folder / "inventory/broken/machine.toml").write_text('id = "b"\nname = 3\n')
    (folder / "inventory/torn").mkdir()
    (folder / "inventory/torn/disk.qcow2").write_bytes(b"QFI\xfb torn")
    found = await client.discover()
    assert [machine.name for machine in found.vms] == ["web01"]
    assert [(problem.instance, problem.code) for problem in found.problems] == [
        ("/broken", "inventory_broken"),
        ("/torn", "image_broken"),
    ]
    assert "'name'" in found.problems[0].detail and found.problems[0].advice


async def test_unknown_things_are_problems_with_a_code(http):
    for method, path, status, code in (
        ("GET", "/api/v1/progress/none", 404, "job_unknown"),
        ("GET", "/api/v1/status/none", 404, "job_unknown"),
        ("DELETE", "/api/v1/replications/none", 404, "job_unknown"),
        ("POST", "/api/v1/replications/none/commit", 404, "job_unknown"),
        ("GET", "/api/v1/replications/none/disks/disk-2000/digests", 404, "job_unknown"),
        ("GET", "/api/v1/replications?since=soon", 400, "bad_request"),
        ("GET", "/api/v1/nothing", 404, "route_unknown"),
        ("PUT", "/api/v1/replicate", 405, "method_refused"),
    ):
        answer = await http.request(method, path)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["success"]) == (status, code, False), path
        assert problem["error"] == problem["detail"] and problem["advice"]
    assert set(answer.headers["allow"].split(", ")) == {"POST"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"job_id": 3}', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_none_is_one_line_that_says_why(http, content):
    answer = await http.post("/api/v1/replicate", content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "\n" not in answer.json()["detail"]


async def test_a_body_without_end_is_refused(http):
    answer = await http.post("/api/v1/replicate", content=b" " * (2 * MIB))
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


async def test_status_speaks_the_older_words(world, client):
    done = await world.replicate(client)
    status = await client.status(done.job_id)
    assert (status.status, status.progress_percent, status.vm_path) == ("completed", 100.0, "/web01")


async def test_credentials_are_not_kept(world, client, agent):
    done = await world.replicate(client, username="root", password="correct-horse-battery")
    assert b"correct-horse" not in (agent.state / "agent.journal").read_bytes()
    again = world.request(job_id=done.job_id, username="root", password="correct-horse-battery")
    assert (await client.replicate(again)).job_id == done.job_id


async def test_events_tell_of_every_change_and_resume_from_an_id(world, client, http):
    wanted = world.request()
    seen = []

    async def listen(headers, enough):
        async with http.stream("GET", "/api/v1/events", headers=headers, timeout=20) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("id: "):
                    cursor = line.removeprefix("id: ")
                if line.startswith("data: "):
                    seen.append((cursor, json.loads(line.removeprefix("data: "))))
                    if enough(seen[-1][1]):
                        return

    await client.replicate(wanted)
    await listen({}, lambda progress: progress["status"] == "completed")
    assert {progress["job_id"] for _, progress in seen} == {wanted.job_id}
    last = seen[-1][0]
    await client.commit(wanted.job_id)
    seen.clear()
    await listen({"Last-Event-ID": last}, lambda progress: True)
    assert seen[0][1]["committed"] is True


async def test_a_long_poll_ends_with_the_first_news(world, client, http):
    done = await world.replicate(client)
    cursor = (await client.replications()).cursor
    assert (await client.replications(cursor)).replications == []
    query = {"since": cursor, "wait": 20}
    waiting = asyncio.create_task(http.get("/api/v1/replications", params=query, timeout=25))
    await client.commit(done.job_id)
    (news,) = (await waiting).json()["replications"]
    assert news["committed"] is True


async def test_cleanup_gives_the_point_up(world, client, http):
    first = await world.replicate(client)
    answer = await http.post("/api/v1/cleanup", json={"job_id": first.job_id, "action": "delete_snapshot"})
    assert answer.json() == {"job_id": first.job_id, "action": "delete_snapshot", "status": "success"}
    with pytest.raises(ProblemError):
        await client.commit(first.job_id)
    refused = await http.post("/api/v1/cleanup", json={"job_id": first.job_id, "action": "format"})
    assert refused.json()["code"] == "bad_request"
    assert Cleanup(job_id="x", action="y").status == ""


async def test_committing_a_failed_job_is_refused(world, client):
    (world.volumes.folder / "disk-2000").unlink()
    failed = await world.replicate(client)
    assert failed.status is SourceStatus.FAILED
    with pytest.raises(ProblemError) as refused:
        await client.commit(failed.job_id)
    assert refused.value.code == "job_unfinished"
    await client.abandon(failed.job_id)


def run(*options):
    result = subprocess.run(
        [OMAVOL, "agent", *map(str, options)], capture_output=True, text=True, check=False, timeout=30
    )
    return result.returncode, result.stderr


async def test_what_cannot_start_says_so_in_one_line(agent, client, folder):
    inventory = folder / "inventory"
    other = folder / "other"
    token = folder / "short-token"
    token.write_text("hunter2\n")
    for options, words in (
        (("--inventory", folder / "nowhere"), "does not exist"),
        (("--inventory", inventory, "--state", other, "--port", agent.port), "cannot listen"),
        (("--inventory", inventory, "--state", agent.state, "--port", 0), "another agent uses the state directory"),
        (("--inventory", inventory, "--state", other, "--port", 0, "--token-file", token), "holds no token"),
        (("--inventory", inventory, "--state", folder / ("x" * 100), "--port", 0), "too long a path"),
        (("--inventory", inventory, "--state", agent.log, "--port", 0), "agent.log"),
    ):
        code, stderr = run(*options)
        assert code != 0 and words in stderr, (options, stderr)
        assert "Traceback" not in stderr


async def test_a_token_file_that_is_there_is_used(agent, folder, world):
    (agent.state).mkdir()
    (agent.state / "token").write_text("a-token-that-someone-chose\n")
    agent.start()
    async with SourceClient(agent.url, "a-token-that-someone-chose") as client:
        assert (await client.version()).agent_id

"""Machines, discovery and sources over HTTP."""

from __future__ import annotations

import os

from builders import machine

V1 = "/api/v1"


async def test_machines_are_listed_and_found_by_id_or_name(world, client, problem):
    [row] = (await client.get(f"{V1}/vm-contexts")).json()["vm_contexts"]
    assert (row["vm_name"], row["current_status"], row["source"]) == ("web01", "discovered", "lab")
    for key in ("web01", row["context_id"]):
        page = (await client.get(f"{V1}/vm-contexts/{key}")).json()
        assert [disk["disk_id"] for disk in page["disks"]] == ["disk-2000", "disk-2001"]
        assert "last_operation" not in page, "left out until there is one"
    problem(await client.get(f"{V1}/vm-contexts/nobody"), 404, "machine_unknown")


async def test_a_machine_shows_its_last_operation_and_recent_jobs(world, client):
    await world.ended(await world.replicate())
    page = (await client.get(f"{V1}/vm-contexts/web01")).json()
    assert page["context"]["current_status"] == "ready_for_failover"
    assert page["last_operation"]["status"] == "completed"
    assert [disk["holds"] for disk in page["disks"]] == ["point", "point"]
    recent = (await client.get(f"{V1}/vm-contexts/{world.context.context_id}/recent-jobs")).json()
    assert (recent["count"], recent["jobs"][0]["job_type"]) == (1, "replication")


async def test_a_running_job_shows_on_its_machine(world, client):
    world.agent.autopilot = False
    job = await world.replicate()
    page = (await client.get(f"{V1}/vm-contexts/web01")).json()
    assert page["current_job"]["job_id"] == page["context"]["current_job_id"] == job.id
    [row] = (await client.get(f"{V1}/vm-contexts")).json()["vm_contexts"]
    assert row["current_job"]["job_id"] == job.id


async def test_two_machines_of_one_name_are_told_apart_by_id_only(world, client, problem):
    await world.control.database.write(contexts_add, "another-host")
    problem(await client.get(f"{V1}/vm-contexts/web01"), 409, "machine_ambiguous")
    assert (await client.get(f"{V1}/vm-contexts/{world.context.context_id}")).status_code == 200


async def contexts_add(connection, host):
    from omactl.store import contexts

    await contexts.add(connection, "lab", host, machine())


async def test_discovery_shows_what_is_managed_already_and_can_add(world, client):
    world.agent.machines.append(machine("db01"))
    looked = (await client.post(f"{V1}/discovery/discover-vms", json={})).json()
    assert [(vm["name"], vm["existing"]) for vm in looked["discovered_vms"]] == [("db01", False), ("web01", True)]
    assert looked["addition_result"] is None
    added = (await client.post(f"{V1}/discovery/discover-vms", json={"create_context": True})).json()
    assert added["addition_result"]["vms_added"] == 1
    assert all(vm["context_id"] for vm in added["discovered_vms"])


async def test_machines_are_added_by_name_and_the_unknown_named(world, client):
    added = (await client.post(f"{V1}/discovery/add-vms", json={"vm_names": ["web01", "nobody"]})).json()
    assert (added["success"], added["vms_added"], added["vms_failed"]) == (False, 0, 1)
    assert [each["status"] for each in added["processed_vms"]] == ["known", "failed"]
    assert "nobody" in added["processed_vms"][1]["error_message"]


async def test_a_silent_source_is_503_and_says_when_to_ask_again(world, client, problem):
    await world.stack.aclose()
    response = await client.post(f"{V1}/discovery/discover-vms", json={})
    problem(response, 503, "source_unreachable")
    assert response.headers["retry-after"]


async def test_a_token_file_that_holds_none_is_said_and_mended_by_writing_it_anew(world, client, problem):
    token_file = world.state / "agent-token"
    for content in (b"", bytes(range(256)), b"two\nlines", "tök".encode(), b"wrong"):
        token_file.write_bytes(content)
        problem(await client.post(f"{V1}/discovery/discover-vms", json={}), 502, "source_unauthorized")
    token_file.write_text(world.agent.token)
    assert (await client.post(f"{V1}/discovery/discover-vms", json={})).status_code == 200


async def test_an_unknown_source_is_named(client, problem):
    problem(await client.post(f"{V1}/discovery/discover-vms", json={"source": "moon"}), 404, "source_unknown")


async def test_a_source_is_added_and_its_token_never_comes_back(world, client):
    body = {"name": "east", "url": "http://10.0.0.9:8081/", "token": "very-secret"}
    response = await client.post(f"{V1}/sources", json=body)
    assert (response.status_code, response.json()["url"]) == (201, "http://10.0.0.9:8081")
    listed = await client.get(f"{V1}/sources")
    assert "very-secret" not in response.text + listed.text
    assert [source["name"] for source in listed.json()["sources"]] == ["east", "lab"]
    kept = world.control.settings.state / "sources" / "east.token"
    assert kept.read_text().strip() == "very-secret"
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.stat().st_uid == os.getuid()


SENSELESS = [
    {"name": "../etc/passwd"},
    {"name": ""},
    {"url": "file:///etc/passwd"},
    {"url": "http://user@host"},
    {"url": "http://host:99999"},
    {"url": "http://host/path"},
    {"url": "http://[::1"},
    {"token": ""},
    {"token": "two\nlines"},
]


async def test_a_source_that_makes_no_sense_is_refused(client, problem):
    for change in SENSELESS:
        body = {"name": "east", "url": "http://host:8081", "token": "t"} | change
        problem(await client.post(f"{V1}/sources", json=body), 400, "invalid_parameter")


async def test_a_name_is_not_given_to_another_address(world, client, problem):
    body = {"name": "lab", "url": "http://elsewhere:8081", "token": "t"}
    problem(await client.post(f"{V1}/sources", json=body), 409, "source_exists")

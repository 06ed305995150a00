"""Replications and jobs over HTTP, in the shapes that GUIs know."""

from __future__ import annotations

from omavol.schema.source import SourceStatus

V1 = "/api/v1"


async def started(client, **body):
    response = await client.post(f"{V1}/replications", json={"vm_name": "web01"} | body)
    assert response.status_code == 201, response.text
    return response.json()


async def completed(world, client):
    job = await started(client)
    await world.ended(await world.job(job["job_id"]))
    return job["job_id"]


async def test_a_replication_is_started_and_answered_at_once(world, client):
    job = await started(client)
    assert job["status"] == "pending" and job["source_vm"]["name"] == "web01"
    ended = await world.ended(await world.job(job["job_id"]))
    assert ended.status == "completed"


async def test_a_job_shows_its_steps_and_disks(world, client):
    job_id = await completed(world, client)
    job = (await client.get(f"{V1}/jobs/{job_id}")).json()
    assert job["display_name"] == "Replication Completed"
    assert [step["status"] for step in job["steps"]] == ["completed"] * 8
    assert {disk["proof"] for disk in job["disks"]} == {"digest"}
    assert "nbd" not in str(job), "the export's name is nobody's business"
    assert (job["progress"], job["steps_completed"], job["started_by"]) == (100, 8, "admin")


async def test_the_older_pages_tell_the_same(world, client):
    job_id = await completed(world, client)
    page = (await client.get(f"{V1}/replications/{job_id}")).json()
    assert (page["status"], page["progress_percent"], page["current_operation"]) == ("completed", 100, "Completed")
    assert len(page["cbt_history"]) == 2 and page["cbt_history"][0]["sync_success"]
    progress = (await client.get(f"{V1}/progress/{job_id}")).json()
    assert (progress["percentage"], len(progress["disk_progresses"]), progress["is_live"]) == (100, 2, False)
    listed = (await client.get(f"{V1}/replications")).json()
    assert [each["job_id"] for each in listed["replications"]] == [job_id]


async def test_the_list_is_newest_first_filtered_and_paged(world, client):
    made = [await completed(world, client) for _ in range(3)]
    first = (await client.get(f"{V1}/jobs", params={"limit": 2})).json()
    assert [job["job_id"] for job in first["jobs"]] == made[:0:-1]
    rest = (await client.get(f"{V1}/jobs", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [job["job_id"] for job in rest["jobs"]] == made[:1] and rest["next_cursor"] is None
    for query, count in (
        ({"machine": "web01"}, 3),
        ({"status": "failed"}, 0),
        ({"live": "false"}, 3),
        ({"kind": "x"}, 0),
    ):
        assert (await client.get(f"{V1}/jobs", params=query)).json()["count"] == count


async def test_a_busy_machine_is_refused_and_the_job_named(world, client, problem):
    world.agent.autopilot = False
    job = await started(client)
    said = problem(await client.post(f"{V1}/replications", json={"vm_name": "web01"}), 409, "machine_busy")
    assert said.job_id == job["job_id"] and "web01" in said.detail


async def test_a_running_job_is_cancelled_and_an_ended_one_is_not(world, client, problem):
    world.agent.autopilot = False
    job_id = (await started(client))["job_id"]
    response = await client.post(f"{V1}/jobs/{job_id}/cancel")
    assert response.status_code == 202 and response.json()["cancel_requested_at"]
    ended = await world.ended(await world.job(job_id))
    assert (ended.status, ended.cancel_requested_by) == ("cancelled", "admin")
    problem(await client.post(f"{V1}/jobs/{job_id}/cancel"), 409, "job_ended")


async def test_deleting_cancels_what_runs_and_removes_what_ended(world, client, problem):
    world.agent.autopilot = False
    job_id = (await started(client))["job_id"]
    await world.at_step(await world.job(job_id), "replicating")
    assert (await client.delete(f"{V1}/replications/{job_id}")).status_code == 202
    await world.ended(await world.job(job_id))
    assert (await client.delete(f"{V1}/replications/{job_id}")).status_code == 200
    problem(await client.get(f"{V1}/jobs/{job_id}"), 404, "job_unknown")
    assert len(world.volumes.volumes) == 2, "volumes stay"


async def test_a_failure_is_told_with_advice_and_without_internals(world, client):
    world.agent.autopilot = False
    job_id = (await started(client))["job_id"]
    await world.at_step(await world.job(job_id), "replicating")
    world.agent.advance(job_id, SourceStatus.FAILED, error="nbdkit: /dev/sdb: 10.0.0.1: boom")
    await world.ended(await world.job(job_id))
    job = (await client.get(f"{V1}/jobs/{job_id}")).json()
    assert (job["error_code"], job["error_category"], job["failed_step"]) == (
        "source_failed",
        "platform",
        "Data synchronisation",
    )
    assert job["actionable_steps"]
    assert "boom" in job.pop("details"), "support finds the cause"
    listed = await client.get(f"{V1}/jobs")
    context = await client.get(f"{V1}/vm-contexts/web01")
    for text in (str(job), listed.text, context.text):
        assert "boom" not in text and "nbdkit" not in text and "/dev" not in text


async def test_the_type_of_a_replication_is_checked(client, problem):
    body = {"vm_name": "web01", "replication_type": "sideways"}
    problem(await client.post(f"{V1}/replications", json=body), 400, "replication_unknown_type")
    body = {"vm_name": "web01", "rate_limit": 0}
    problem(await client.post(f"{V1}/replications", json=body), 400, "invalid_parameter")


async def test_a_machine_is_named_by_what_discovery_gave(world, client, problem):
    vm = {"id": "id-web01", "name": "web01", "path": "/lab/web01", "disks": [{"anything": 1}]}
    job = await started(client, vm_name=None, source_vm=vm, ossea_config_id=1)
    assert job["context_id"] == world.context.context_id
    problem(await client.post(f"{V1}/replications", json={"source_vm": vm | {"path": ""}}), 400, "malformed_json")
    problem(await client.post(f"{V1}/replications", json={}), 400, "malformed_json")


async def test_a_machine_can_be_put_under_management_only(world, client, problem):
    from builders import machine

    world.agent.machines.append(machine("db01"))
    body = {"source_vm": {"id": "id-db01", "name": "db01", "path": "/lab/db01"}, "start_replication": False}
    added = await client.post(f"{V1}/replications", json=body)
    assert (added.status_code, added.json()["current_status"]) == (201, "discovered")
    problem(await client.post(f"{V1}/replications", json=body), 409, "machine_managed")

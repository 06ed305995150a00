"""Replications: started, listed, looked at, and deleted, in the shapes of BEHAVIOUR.md 3.3."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from omactl.api import shapes
from omactl.api.body import decode, path_id, world
from omactl.api.present import GIB, cbt_entry, job_disk, job_row, operation_name, row_values
from omactl.api.problem import answer
from omactl.api.v1.jobs import page_of
from omactl.rules.messages import Failure
from omactl.store import contexts, jobs, queries
from omactl.store.rows import Context, Disk
from omactl.work.control import Control

__all__ = ["create", "delete", "detail", "listing"]

FULL = {"initial": True, "full": True, "incremental": False, None: False}


async def create(request: Request) -> Response:
    wanted = await decode(request, shapes.NewReplication)
    if wanted.replication_type not in FULL:
        raise Failure("replication_unknown_type", type=str(wanted.replication_type))
    control = world(request).control
    context, fresh = await _machine(control, wanted)
    if not wanted.start_replication:
        if not fresh:
            raise Failure("machine_managed", machine=context.vm_name)
        return answer(_added(context), status=201)
    options: dict[str, Any] = {}
    if FULL[wanted.replication_type]:
        options["full"] = True
    if wanted.rate_limit is not None:
        if wanted.rate_limit <= 0:
            raise Failure("invalid_parameter", parameter="rate_limit", problem="it must be more than 0 bytes a second")
        options["rate_limit"] = wanted.rate_limit
    job = await control.replicate(context, wanted.scheduled_by or request.state.token.name, options)
    known = [disk for disk in await control.database.read(contexts.disks_of, context.context_id) if disk.volume_id]
    started = shapes.ReplicationStarted(
        job_id=job.id,
        context_id=context.context_id,
        status=job.status.value,
        progress_percent=0.0,
        source_vm=_source_vm(context),
        created_volumes=[_volume(disk) for disk in known],
        mounted_volumes=[],
        started_at=job.created_at,
        message=f"The replication of {context.vm_name} has started.",
    )
    return answer(started, status=201, Location=f"/api/v1/replications/{job.id}")


async def _machine(control: Control, wanted: shapes.NewReplication) -> tuple[Context, bool]:
    """The machine that the request names, put under management first where it is not; and whether it was."""
    if key := wanted.context_id or wanted.vm_name:
        return await control.database.read(contexts.find, key), False
    asked = wanted.source_vm
    if asked is None or not (asked.id and asked.name and asked.path):
        problem = "it needs source_vm with id, name and path, or context_id, or vm_name"
        raise Failure("malformed_json", problem=problem)
    known = [
        context
        for context in await control.database.read(contexts.list_all)
        if context.vmware_vm_id == asked.id and wanted.source in (None, context.source)
    ]
    if len(known) > 1:
        raise Failure("machine_ambiguous", machine=asked.name)
    if known:
        return known[0], False
    source = await control.machines.source_name(wanted.source)
    [(_, added, fresh)] = await control.machines.add(source, [asked.id])
    if isinstance(added, Failure):
        raise added
    return added, fresh


async def listing(request: Request) -> Response:
    page = await page_of(request, kind="replication")
    rows = [job_row(line) for line in page.lines]
    return answer(shapes.Replications(replications=rows, count=len(rows), next_cursor=page.next_cursor))


async def detail(request: Request) -> Response:
    page = await world(request).control.database.read(_page, path_id(request, "job_id"))
    return answer(page)


async def _page(connection: AsyncConnection, job_id: str) -> shapes.ReplicationPage:
    line = await queries.listed(connection, job_id)
    job = line.job
    values = row_values(line)
    return shapes.ReplicationPage(
        job_id=job.id,
        status=job.status.value,
        progress_percent=round(job.percent, 2),
        current_operation=operation_name(line),
        created_at=job.created_at,
        updated_at=job.updated_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        source_vm=_source_vm(await contexts.find(connection, job.context_id)),
        configuration=job.options or {},
        disks=[job_disk(disk) for disk in await queries.disks_of(connection, job_id)],
        mounts=[],
        cbt_history=[cbt_entry(each) for each in await queries.reached(connection, job_id=job_id)],
        error_message=values.get("error_message"),
        actionable_steps=values.get("actionable_steps", []),
    )


async def delete(request: Request) -> Response:
    """A live job is asked to end and keeps its record; that of an ended one is removed. Volumes are never touched."""
    control, job_id = world(request).control, path_id(request, "job_id")
    job = await control.database.read(jobs.get, job_id)
    if job.live:
        await control.dispatch.cancel(job_id, request.state.token.name)
        done = shapes.Done(success=True, message="The replication is being cancelled; its volumes stay.", job_id=job_id)
        return answer(done, status=202)
    await control.database.write(jobs.forget, job_id)
    return answer(shapes.Done(success=True, message="The job's record is deleted; its volumes stay.", job_id=job_id))


def _source_vm(context: Context) -> shapes.SourceVm:
    return shapes.SourceVm(id=context.vmware_vm_id, name=context.vm_name, path=context.vm_path)


def _volume(disk: Disk) -> shapes.CreatedVolume:
    return shapes.CreatedVolume(
        volume_id=disk.volume_id or "",
        volume_name=disk.label,
        size_gb=-(-disk.capacity // GIB),
        status=disk.holds.value,
    )


def _added(context: Context) -> shapes.MachineAdded:
    return shapes.MachineAdded(
        context_id=context.context_id,
        vm_name=context.vm_name,
        vmware_vm_id=context.vmware_vm_id,
        current_status=context.current_status.value,
        message=f"{context.vm_name} is under management.",
        created_at=context.created_at,
    )

"""Machines under management, and discovery."""

from __future__ import annotations

import time

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from omactl.api import shapes
from omactl.api.body import decode, path_id, world
from omactl.api.present import cbt_entry, context_disk, context_row, job_row
from omactl.api.problem import answer
from omactl.rules.messages import Failure, explain
from omactl.store import contexts, queries
from omactl.store.queries import Filter
from omactl.store.rows import Context
from omactl.work.control import Control
from omactl.work.machines import Found

__all__ = ["add", "detail", "discover", "listing", "recent_jobs"]

HISTORY, RECENT = 10, 20


async def listing(request: Request) -> Response:
    rows = await world(request).control.database.read(_all)
    return answer(shapes.Contexts(vm_contexts=rows, count=len(rows)))


async def _all(connection: AsyncConnection) -> list[shapes.ContextRow]:
    live = {line.job.id: line for line in (await queries.list_jobs(connection, Filter(live=True, limit=10**4))).lines}
    return [
        context_row(context, live.get(context.current_job_id or "")) for context in await contexts.list_all(connection)
    ]


async def detail(request: Request) -> Response:
    return answer(await world(request).control.database.read(_page, path_id(request, "key")))


async def _page(connection: AsyncConnection, key: str) -> shapes.ContextPage:
    context = await contexts.find(connection, key)
    history = (await queries.list_jobs(connection, Filter(machine=context.context_id, limit=HISTORY))).lines
    current = next((line for line in history if line.job.id == context.current_job_id), None)
    return shapes.ContextPage(
        context=context_row(context, current),
        current_job=job_row(current) if current else None,
        job_history=[job_row(line) for line in history],
        disks=[context_disk(disk) for disk in await contexts.disks_of(connection, context.context_id)],
        cbt_history=[cbt_entry(each) for each in await queries.reached(connection, context_id=context.context_id)],
        last_operation=context.last_operation_summary,
    )


async def recent_jobs(request: Request) -> Response:
    return answer(await world(request).control.database.read(_recent, path_id(request, "key")))


async def _recent(connection: AsyncConnection, key: str) -> shapes.RecentJobs:
    context = await contexts.find(connection, key)
    lines = (await queries.list_jobs(connection, Filter(machine=context.context_id, limit=RECENT))).lines
    rows = [job_row(line) for line in lines]
    return shapes.RecentJobs(context_id=context.context_id, jobs=rows, count=len(rows))


# --- discovery ---------------------------------------------------------------------------------------------------


async def discover(request: Request) -> Response:
    wanted, control = await decode(request, shapes.Discover), world(request).control
    began = time.monotonic()
    source = await control.machines.source_name(wanted.source)
    found = await control.machines.discover(source, wanted.filter or "")
    selected = None if wanted.selected_vms is None else set(wanted.selected_vms)
    if selected is not None:
        found = [each for each in found if selected & {each.machine.name, each.machine.id, each.machine.path}]
    added = await _add(control, source, [each.machine.id for each in found]) if wanted.create_context else None
    if added:
        names = {each.context_id for each in added.processed_vms if each.context_id}
        known = {
            context.vmware_vm_id: context
            for context in await control.database.read(contexts.list_all)
            if context.context_id in names
        }
        found = [Found(each.machine, each.context or known.get(each.machine.id)) for each in found]
    return answer(
        shapes.Discovery(
            discovered_vms=[_discovered(each) for each in found],
            addition_result=added,
            discovery_count=len(found),
            processing_time=round(time.monotonic() - began, 3),
            status="success",
            message=f"{len(found)} machines found.",
        )
    )


async def add(request: Request) -> Response:
    wanted, control = await decode(request, shapes.AddMachines), world(request).control
    source = await control.machines.source_name(wanted.source)
    return answer(await _add(control, source, wanted.vm_names))


async def _add(control: Control, source: str, names: list[str]) -> shapes.Added:
    results = await control.machines.add(source, names)
    processed = [_processed(*result) for result in results]
    fresh = sum(each.status == "added" for each in processed)
    failed = sum(each.status == "failed" for each in processed)
    return shapes.Added(
        success=not failed,
        message=f"{fresh} machines added, {len(processed) - fresh - failed} known before, {failed} failed.",
        vms_added=fresh,
        vms_failed=failed,
        total_vms=len(processed),
        processed_vms=processed,
    )


def _processed(name: str, result: Context | Failure, fresh: bool) -> shapes.ProcessedMachine:
    if isinstance(result, Failure):
        return shapes.ProcessedMachine(
            vm_name=name, status="failed", error_message=explain(result.code, result.facts).sentence
        )
    return shapes.ProcessedMachine(
        vm_name=result.vm_name, status="added" if fresh else "known", context_id=result.context_id
    )


def _discovered(found: Found) -> shapes.DiscoveredMachine:
    machine = found.machine
    return shapes.DiscoveredMachine(
        id=machine.id,
        name=machine.name,
        path=machine.path,
        power_state=machine.power_state.value,
        guest_os=machine.guest_os,
        num_cpu=machine.num_cpu or machine.cpus,
        memory_mb=machine.memory_mb,
        disks=[msgspec.to_builtins(disk) for disk in machine.disks],
        networks=[msgspec.to_builtins(network) for network in machine.networks],
        existing=found.context is not None,
        context_id=found.context.context_id if found.context else None,
    )

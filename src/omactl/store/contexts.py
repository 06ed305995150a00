"""Machines under management: added from what a source tells, found by id or unique name."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.rules.transitions import LIVE
from omactl.store.events import note
from omactl.store.rows import Context, Disk, columns_of, of_row
from omactl.store.schema import contexts, disks, jobs, machines
from omavol.schema.common import now
from omavol.schema.source import DiskDescription, Machine

__all__ = ["add", "disks_of", "find", "list_all", "refresh", "release_finished", "set_volume"]

_SLUG = re.compile(r"[^A-Za-z0-9._-]+")


def _select() -> sa.Select[Any]:
    return sa.select(*columns_of(Context, contexts), machines.c.source).outerjoin(
        machines, machines.c.context_id == contexts.c.context_id
    )


async def add(
    connection: AsyncConnection, source: str, host: str, machine: Machine, *, auto_added: bool = False
) -> tuple[Context, bool]:
    """Put a machine under management, or bring what is known of it up to date; (context, whether it is new).

    A machine is known by its own id at its source, so a renamed one stays the same context.
    """
    known = (
        await connection.execute(
            _select().where(contexts.c.vmware_vm_id == machine.id, contexts.c.vcenter_host == host)
        )
    ).one_or_none()
    if known is not None:
        await refresh(connection, known.context_id, machine)
        return await find(connection, known.context_id), False
    await _refuse_name_twice(connection, host, machine.name)
    at = now()
    context_id = await _new_id(connection, machine.name, at)
    await connection.execute(
        sa.insert(contexts).values(
            context_id=context_id,
            vmware_vm_id=machine.id,
            vcenter_host=host,
            auto_added=auto_added,
            created_at=at,
            last_status_change=at,
            **_facts_of(machine, at),
        )
    )
    await connection.execute(sa.insert(machines).values(context_id=context_id, source=source))
    await _put_disks(connection, context_id, machine.disks, at)
    await note(connection, "machine.added", None, {"context_id": context_id, "source": source})
    return await find(connection, context_id), True


async def _refuse_name_twice(connection: AsyncConnection, host: str, name: str) -> None:
    taken = sa.select(contexts.c.context_id).where(contexts.c.vm_name == name, contexts.c.vcenter_host == host)
    if (await connection.execute(taken)).one_or_none():
        raise Failure("machine_name_taken", machine=name)


async def refresh(connection: AsyncConnection, context_id: str, machine: Machine) -> None:
    """Write what the source tells of the machine and its disks now; volumes and what they hold stay."""
    at = now()
    await connection.execute(
        sa.update(contexts).where(contexts.c.context_id == context_id).values(_facts_of(machine, at))
    )
    await _put_disks(connection, context_id, machine.disks, at)


def _facts_of(machine: Machine, at: datetime) -> dict[str, Any]:
    return {
        "vm_name": machine.name,
        "vm_path": machine.path,
        "datacenter": machine.datacenter,
        "cpu_count": machine.num_cpu or machine.cpus or None,
        "memory_mb": machine.memory_mb or None,
        "os_type": machine.os_type or machine.guest_os or None,
        "power_state": machine.power_state.value,
        "updated_at": at,
    }


async def _put_disks(
    connection: AsyncConnection, context_id: str, described: Sequence[DiskDescription], at: datetime
) -> None:
    """Record the disks by their own keys; one that is gone keeps its row and volume, and counts no longer."""
    names = [disk.id for disk in described]
    await connection.execute(
        sa.update(disks)
        .where(disks.c.context_id == context_id, disks.c.disk_id.not_in(names))
        .values(present=False, updated_at=at)
    )
    for disk in described:
        key = {"context_id": context_id, "disk_id": disk.id}
        values = {
            "label": disk.label,
            "path": disk.path,
            "unit_number": disk.unit_number,
            "capacity": disk.capacity_bytes,
            "present": True,
            "updated_at": at,
        }
        changed = await connection.execute(
            sa.update(disks).where(disks.c.context_id == context_id, disks.c.disk_id == disk.id).values(values)
        )
        if not changed.rowcount:
            await connection.execute(sa.insert(disks).values(**key, **values))


async def _new_id(connection: AsyncConnection, name: str, at: datetime) -> str:
    """`ctx-<machine>-YYYYMMDD-HHMMSS`, with a number where that is taken (BEHAVIOUR.md 3.3); at most 64 letters."""
    wanted = f"ctx-{_SLUG.sub('-', name).strip('-')[:36] or 'machine'}-{at:%Y%m%d-%H%M%S}"
    found = await connection.execute(
        sa.select(contexts.c.context_id).where(contexts.c.context_id.startswith(wanted, autoescape=True))
    )
    taken = set(found.scalars())
    numbered = itertools.chain((wanted,), (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(each for each in numbered if each not in taken)


async def find(connection: AsyncConnection, key: str) -> Context:
    """The machine of that context id, or else of that name where it is unique."""
    row = (await connection.execute(_select().where(contexts.c.context_id == key))).one_or_none()
    if row is not None:
        return of_row(Context, row)
    named = (await connection.execute(_select().where(contexts.c.vm_name == key).limit(2))).all()
    if not named:
        raise Failure("machine_unknown", machine=key)
    if len(named) > 1:
        raise Failure("machine_ambiguous", machine=key)
    return of_row(Context, named[0])


async def list_all(connection: AsyncConnection) -> list[Context]:
    """Every machine, by name."""
    found = await connection.execute(_select().order_by(contexts.c.vm_name, contexts.c.context_id))
    return [of_row(Context, row) for row in found]


async def disks_of(connection: AsyncConnection, context_id: str) -> list[Disk]:
    """The disks that the machine has now, in the order of the machine."""
    found = await connection.execute(
        sa.select(*columns_of(Disk, disks))
        .where(disks.c.context_id == context_id, disks.c.present)
        .order_by(disks.c.unit_number, disks.c.disk_id)
    )
    return [of_row(Disk, row) for row in found]


async def set_volume(connection: AsyncConnection, context_id: str, disk_id: str, volume_id: str) -> None:
    """The disk's copy lives in that volume from now on."""
    await connection.execute(
        sa.update(disks)
        .where(disks.c.context_id == context_id, disks.c.disk_id == disk_id)
        .values(volume_id=volume_id, updated_at=now())
    )


async def release_finished(connection: AsyncConnection) -> list[str]:
    """Clear `current_job_id` where that job has ended or is gone; the machines it was done for.

    The closing function clears it in its own transaction, so this finds nothing unless someone wrote by hand.
    """
    live = sa.select(jobs.c.id).where(jobs.c.status.in_([status.value for status in LIVE]))
    stale = sa.and_(contexts.c.current_job_id.is_not(None), contexts.c.current_job_id.not_in(live))
    found = list((await connection.execute(sa.select(contexts.c.context_id).where(stale))).scalars())
    if found:
        await connection.execute(sa.update(contexts).where(stale).values(current_job_id=None, updated_at=now()))
    return found

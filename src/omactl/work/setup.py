"""The steps of a replication up to the hand-over: the machine anew, its volumes, attached, opened for writing.

Every step may be done again: a volume is created under a key of (machine, disk), an attached one is left alone, a
session opened under a newer epoch ends the older one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.rules.messages import Failure
from omactl.settings import Settings
from omactl.store import contexts, jobs
from omactl.store.engine import Database
from omactl.store.events import note
from omactl.store.rows import Context, Disk, Job, JobDisk
from omactl.work.peers import Peers, asking_source, asking_volumes, patiently
from omavol.client import ProblemError, SourceClient
from omavol.schema.source import Machine, NbdTarget, Replicate
from omavol.schema.volumes import (
    AtPoint,
    Base,
    CreateVolume,
    OpenSession,
    Session,
    SessionState,
    Torn,
    Volume,
    VolumeStatus,
)

__all__ = ["Plan", "SetUp", "common_base"]

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Plan:
    """A job with all that its steps work on. `disks` are its rows as recorded so far."""

    job: Job
    context: Context
    disks: tuple[JobDisk, ...]

    @property
    def source(self) -> str:
        if self.context.source is None:
            raise Failure("no_source")
        return self.context.source


@dataclass(frozen=True)
class SetUp:
    """The steps, each from the plan to its disks afterwards. Holds no state: what a step leaves is in the database."""

    database: Database
    peers: Peers
    settings: Settings

    # --- validation ---

    async def validation(self, plan: Plan) -> tuple[JobDisk, ...]:
        """Ask the source for the machine anew; record its disks as they are now."""
        client = await self.peers.source(plan.source)
        machine = await self._machine(client, plan)
        if not machine.disks:
            raise Failure("no_disks", machine=machine.name)
        before = await self.database.read(contexts.disks_of, plan.context.context_id)
        _refuse_resized(before, machine)
        await self.database.write(_take_in, plan, machine, before)
        return tuple(
            JobDisk(plan.job.id, disk.id, label=disk.label, capacity=disk.capacity_bytes) for disk in machine.disks
        )

    async def _machine(self, client: SourceClient, plan: Plan) -> Machine:
        async def ask() -> Machine:
            async with asking_source(plan.source):
                discovered = await client.discover()
            found = next((each for each in discovered.vms if each.id == plan.context.vmware_vm_id), None)
            if found is None:
                raise Failure("source_lacks_machine", source=plan.source, machine=plan.context.vm_name)
            return found

        return await patiently(ask, self.settings.timing.patience)

    # --- provisioning ---

    async def provisioning(self, plan: Plan) -> tuple[JobDisk, ...]:
        """A volume for every disk: the known one, or a new one where there is none (any more)."""
        known = {disk.disk_id: disk for disk in await self.database.read(contexts.disks_of, plan.context.context_id)}
        return tuple([await self._provide(plan, disk, known[disk.disk_id].volume_id) for disk in plan.disks])

    async def _provide(self, plan: Plan, disk: JobDisk, volume_id: str | None) -> JobDisk:
        volume = await self._known(disk, volume_id) if volume_id else None
        if volume is None:
            volume = await self._create(plan, disk, volume_id)
            await self.database.write(contexts.set_volume, plan.context.context_id, disk.disk_id, volume.volume_id)
        if volume.size != disk.capacity:
            raise Failure("disk_resized", disk=disk.label, before=volume.size, now=disk.capacity)
        return replace(disk, volume_id=volume.volume_id)

    async def _known(self, disk: JobDisk, volume_id: str) -> Volume | None:
        """The volume, or None where it was deleted: then the disk gets a new one and a full copy."""

        async def ask() -> Volume | None:
            async with asking_volumes(disk.label):
                try:
                    volume = await self.peers.volumes.volume(volume_id)
                except ProblemError as error:
                    if error.problem.status == 404:
                        return None
                    raise
            return None if volume.status in (VolumeStatus.DELETED, VolumeStatus.DELETING) else volume

        return await patiently(ask, self.settings.timing.patience)

    async def _create(self, plan: Plan, disk: JobDisk, lost: str | None) -> Volume:
        context, volumes = plan.context, self.peers.volumes
        number = next((each for each, row in enumerate(plan.disks) if row.disk_id == disk.disk_id), 0)
        wanted = CreateVolume(
            name=f"{_NOT_IN_A_NAME.sub('-', context.vm_name).strip('-._') or 'machine'}-disk{number}"[:190],
            size=disk.capacity,
            metadata={"context_id": context.context_id, "disk_id": disk.disk_id, "vm_name": context.vm_name},
        )
        key = f"{context.context_id}/{disk.disk_id}" + (f"/instead-of/{lost}" if lost else "")

        async def create() -> Volume:
            async with asking_volumes(disk.label):
                operation = await volumes.create_volume(wanted, key=key)
                done = await volumes.wait(operation, self.settings.timing.operation)
                return await volumes.volume(done.volume_id)

        return await patiently(create, self.settings.timing.patience)

    # --- attaching ---

    async def attaching(self, plan: Plan) -> tuple[JobDisk, ...]:
        """Every volume attached to this appliance; one that another machine uses is a failure."""
        appliance = await patiently(self._appliance, self.settings.timing.patience)
        for disk in plan.disks:
            await patiently(partial(self._attach, plan, disk, appliance), self.settings.timing.patience)
        return plan.disks

    async def _appliance(self) -> str:
        async with asking_volumes():
            return (await self.peers.volumes.provider()).appliance_vm_id

    async def _attach(self, plan: Plan, disk: JobDisk, appliance: str) -> None:
        volumes, volume_id = self.peers.volumes, _recorded(disk.volume_id, disk)
        async with asking_volumes(disk.label):
            volume = await volumes.volume(volume_id)
            if volume.status is VolumeStatus.ATTACHED:
                if volume.vm_id != appliance:
                    raise Failure("volume_busy", f"attached to {volume.vm_id}", disk=disk.label)
                return
            operation = await volumes.attach(volume_id, appliance, key=f"{plan.job.id}/{disk.disk_id}/attach")
            await volumes.wait(operation, self.settings.timing.operation)

    # --- configuring ---

    async def configuring(self, plan: Plan) -> tuple[JobDisk, ...]:
        """A write session of every volume: all incremental from one common point, or all full."""

        async def open_all() -> tuple[JobDisk, ...]:
            known = {each.disk_id: each for each in await self.database.read(contexts.disks_of, plan.job.context_id)}
            volumes = [await self._volume(disk) for disk in plan.disks]
            pairs = [(known[disk.disk_id], volume) for disk, volume in zip(plan.disks, volumes, strict=True)]
            bases = None if (plan.job.options or {}).get("full") else common_base(pairs)
            sessions = [await self._open(plan, disk, bases) for disk in plan.disks]
            if bases and any(session.mode != "incremental" for session in sessions):
                await self._end(plan.disks, sessions)
                bases = None
                sessions = [await self._open(plan, disk, None) for disk in plan.disks]
            return tuple(
                replace(
                    disk,
                    session_id=session.session_id,
                    uri=session.uri,
                    mode=session.mode,
                    reason=session.reason[:255],
                    base_point=bases[disk.disk_id].point if bases else None,
                )
                for disk, session in zip(plan.disks, sessions, strict=True)
            )

        return await patiently(open_all, self.settings.timing.patience)

    async def _volume(self, disk: JobDisk) -> Volume:
        async with asking_volumes(disk.label):
            return await self.peers.volumes.volume(_recorded(disk.volume_id, disk))

    async def _open(self, plan: Plan, disk: JobDisk, bases: dict[str, Base] | None) -> Session:
        wanted = OpenSession(job=plan.job.id, epoch=plan.job.epoch, base=bases[disk.disk_id] if bases else None)
        async with asking_volumes(disk.label):
            session = await self.peers.volumes.open_session(_recorded(disk.volume_id, disk), wanted)
        if session.uri is None:
            raise Failure("export_refused", "the server of the exports is not there", disk=disk.label)
        return session

    async def _end(self, disks: Sequence[JobDisk], sessions: Sequence[Session]) -> None:
        for disk, session in zip(disks, sessions, strict=True):
            async with asking_volumes(disk.label):
                await self.peers.volumes.end_session(session.volume_id, session.session_id)

    # --- handing over ---

    async def sessions_stand(self, plan: Plan) -> bool:
        """Are the recorded sessions still open? A job that was cut off before the hand-over asks."""
        for disk in plan.disks:
            async with asking_volumes(disk.label):
                session = await self.peers.volumes.session(
                    _recorded(disk.volume_id, disk), _recorded(disk.session_id, disk)
                )
            if session.state is not SessionState.OPEN or session.unprovable_because:
                return False
        return True

    async def handing_over(self, plan: Plan) -> tuple[JobDisk, ...]:
        """Give the job to the source. Its id is ours, so giving it twice starts nothing new."""
        client = await self.peers.source(plan.source)
        options = plan.job.options or {}
        wanted = Replicate(
            job_id=plan.job.id,
            vm_paths=[plan.context.vm_path],
            nbd_targets=[
                NbdTarget(
                    device_path=_recorded(disk.uri, disk), vmware_disk_key=disk.disk_id, base_point=disk.base_point
                )
                for disk in plan.disks
            ],
            rate_limit=options.get("rate_limit"),
        )

        async def hand_over() -> None:
            async with asking_source(plan.source):
                try:
                    await client.replicate(wanted)
                except ProblemError as error:
                    if error.code == "machine_busy":
                        await self._end_leftover(client, error.problem.job_id)
                    raise

        await patiently(hand_over, self.settings.timing.patience)
        return plan.disks

    async def _end_leftover(self, client: SourceClient, job_id: str | None) -> None:
        """An earlier job that ended here while its source could not be told is cancelled there now."""
        if job_id is None:
            return
        try:
            ended = not (await self.database.read(jobs.get, job_id)).live
        except Failure:
            ended = False  # not one of ours: whoever gave it sees to it
        if ended:
            await client.cancel(job_id)


def common_base(disks: Sequence[tuple[Disk, Volume]]) -> dict[str, Base] | None:
    """The base of every disk if all volumes stand on one proved point and nothing else wrote to them; else None.

    A torn volume stands on the point it had before: an incremental from there heals it.
    """
    bases: dict[str, Base] = {}
    for disk, volume in disks:
        content = volume.content
        point = content.point if isinstance(content, AtPoint) else content.base if isinstance(content, Torn) else None
        if point is None or disk.point != point or disk.generation != volume.generation:
            return None
        bases[disk.disk_id] = Base(generation=volume.generation, point=point)
    return bases if len({base.point for base in bases.values()}) == 1 else None


def _recorded(value: str | None, disk: JobDisk) -> str:
    """What an earlier step must have left."""
    if value is None:
        raise Failure("session_lost", "an earlier step left nothing", disk=disk.label)
    return value


def _refuse_resized(before: Sequence[Disk], machine: Machine) -> None:
    now = {disk.id: disk.capacity_bytes for disk in machine.disks}
    for disk in before:
        if disk.volume_id is not None and now.get(disk.disk_id, disk.capacity) != disk.capacity:
            raise Failure("disk_resized", disk=disk.label, before=disk.capacity, now=now[disk.disk_id])


async def _take_in(connection: AsyncConnection, plan: Plan, machine: Machine, before: Sequence[Disk]) -> None:
    """Bring the machine's record up to date, and note which disks came and went."""
    await contexts.refresh(connection, plan.context.context_id, machine)
    old, new = {disk.disk_id for disk in before}, {disk.id for disk in machine.disks}
    if old != new:
        changed = {"added": sorted(new - old), "removed": sorted(old - new)}
        await note(connection, "machine.disks_changed", plan.job.id, changed)

"""What may become a job: a request and a machine in, targets and a first record out, or the reason why not. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from omavol.agent.errors import AgentError
from omavol.agent.report import disk_before_freeze
from omavol.agent.state import JobRecord
from omavol.nbd.errors import BadUri
from omavol.nbd.uri import parse
from omavol.schema.source import Progress, Replicate, Replicating, SourceStatus, Throughput, Timing, VmInfo
from omavol.source.machine import MachineFacts, SourceMachine
from omavol.source.points import Phase, PointRecord

__all__ = ["Target", "after_restart", "answer_for_known", "check", "first_record", "replicating", "targets_of"]

CONNECTIONS_LIMIT = 16


class Target(msgspec.Struct, frozen=True):
    """Where a disk goes, and the point to differ from."""

    uri: str
    base_point: str | None


def check(wanted: Replicate) -> None:
    """What can be judged without the machine. Raises AgentError naming the field."""
    if len(wanted.vm_paths) != 1:
        raise AgentError("bad_request", f"vm_paths names {len(wanted.vm_paths)} machines, a job copies one")
    if not wanted.nbd_targets:
        raise AgentError("bad_request", "nbd_targets is empty: there is nothing to copy")
    if wanted.rate_limit is not None and wanted.rate_limit < 1:
        raise AgentError("bad_request", f"rate_limit is bytes a second, at least 1: {wanted.rate_limit}")
    if not 1 <= wanted.connections <= CONNECTIONS_LIMIT:
        raise AgentError("bad_request", f"connections is 1 to {CONNECTIONS_LIMIT}: {wanted.connections}")


def targets_of(machine: SourceMachine, wanted: Replicate) -> dict[str, Target]:
    """The target of each disk by the disk's id; an older control plane writes 2000 for disk-2000.

    Two disks never share a destination: that once destroyed partition tables (BEHAVIOUR.md 12.1, 5).
    """
    known = {disk.id for disk in machine.disks}
    targets: dict[str, Target] = {}
    used: dict[str, str] = {}
    for target in wanted.nbd_targets:
        key = target.vmware_disk_key
        disk = key if key in known else f"disk-{key}"
        if disk not in known:
            raise AgentError("disk_unknown", f"{machine.name} has no disk {key}; it has {', '.join(sorted(known))}")
        if disk in targets:
            raise AgentError("bad_request", f"nbd_targets names {disk} twice")
        try:
            uri = str(parse(target.device_path))
        except BadUri as error:
            raise AgentError("bad_request", f"the destination of {disk} is no NBD URI: {error}") from error
        if uri in used:
            raise AgentError("bad_request", f"{used[uri]} and {disk} have the same destination")
        used[uri] = disk
        targets[disk] = Target(target.device_path, target.base_point)
    return targets


def first_record(
    wanted: Replicate,
    machine: SourceMachine,
    facts: MachineFacts,
    targets: dict[str, Target],
    moment: datetime,
    sequence: int,
) -> JobRecord:
    """The job as it is written down before anything is done."""
    labels = {disk.id: disk.label for disk in machine.disks}
    progress = Progress(
        job_id=wanted.job_id,
        status=SourceStatus.PREPARING,
        sync_type="full",
        phase="checking",
        percentage=0.0,
        current_operation="checking the destinations",
        bytes_transferred=0,
        total_bytes=0,
        throughput=Throughput(current_mbps=0.0, average_mbps=0.0, peak_mbps=0.0, last_update=moment),
        timing=Timing(start_time=moment, last_update=moment, elapsed_ms=0, eta_seconds=None),
        vm_info=VmInfo(
            name=machine.name,
            path=machine.path,
            disk_size_bytes=sum(facts.disks[disk].size for disk in targets),
            cbt_enabled=all(facts.disks[disk].tracks_changes for disk in targets),
        ),
        disk_progresses=[disk_before_freeze(disk, labels[disk], facts.disks[disk].size) for disk in targets],
        rate_limit=wanted.rate_limit,
        sequence=sequence,
    )
    return JobRecord(request=wanted, machine_id=machine.id, progress=progress)


def replicating(record: JobRecord) -> Replicating:
    """The answer to POST /replicate; the same whenever it is asked again."""
    return Replicating(job_id=record.id, status="running", vm_count=1, started_at=record.progress.timing.start_time)


def answer_for_known(known: JobRecord, wanted: Replicate) -> Replicating:
    """A request whose id is taken: the same request gets the same answer, another one is refused."""
    if known.request != wanted:
        raise AgentError("job_exists", f"job {known.id} exists with another request", job_id=known.id)
    return replicating(known)


def after_restart(job: JobRecord, point: PointRecord | None, moment: datetime, sequence: int) -> JobRecord:
    """How a job that was unfinished when its process ended is closed.

    Completed if its point was: every byte was flushed then, and the digests were kept before. Failed otherwise.
    """
    if point is not None and point.phase in (Phase.COMPLETED, Phase.COMMITTED):
        progress = msgspec.structs.replace(
            job.progress,
            status=SourceStatus.COMPLETED,
            phase="completed",
            current_operation=f"all disks are at point {point.id}",
            committed=point.phase is Phase.COMMITTED,
            sequence=sequence,
        )
        return msgspec.structs.replace(job, progress=progress)
    words = f"the agent was restarted while it was {job.progress.phase}"
    disks = [
        msgspec.structs.replace(disk, status=SourceStatus.FAILED, throughput_mbps=0.0, proof=None)
        for disk in job.progress.disk_progresses
    ]
    error = AgentError("agent_restarted", words)
    progress = msgspec.structs.replace(
        job.progress,
        status=SourceStatus.FAILED,
        phase="failed",
        current_operation=words,
        error_code=error.code,
        last_error=error.detail,
        errors=[error.detail, *error.advice],
        disk_progresses=disks,
        timing=msgspec.structs.replace(job.progress.timing, last_update=moment, eta_seconds=None),
        sequence=sequence,
    )
    return msgspec.structs.replace(job, progress=progress)

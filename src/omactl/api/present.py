"""Rows into what goes over the wire: the one place where an error becomes public text."""

from __future__ import annotations

from typing import Any

from omactl.api import shapes
from omactl.rules.messages import explain, step_title
from omactl.rules.scrub import scrub
from omactl.rules.transitions import JobStatus
from omactl.store.queries import Listed, Reached
from omactl.store.rows import Context, Disk, Job, JobDisk, JobStep
from omavol.schema.common import now

__all__ = [
    "cbt_entry",
    "context_disk",
    "context_row",
    "job_disk",
    "job_row",
    "job_step",
    "operation_name",
    "progress_row",
    "row_values",
]

GIB = 1 << 30
_LIVE_WITHIN = 30.0  # seconds since the source's last answer


def display_name(job: Job) -> str:
    """What the job is, in words (BEHAVIOUR.md 3.4)."""
    if job.kind != "replication":
        return {"test_failover": "Test Failover", "live_failover": "Live Failover", "rollback": "Rollback"}.get(
            job.kind, "Operation"
        )
    if job.status is JobStatus.COMPLETED:
        return "Replication Completed"
    return {"initial": "Initial Replication", "incremental": "Incremental Replication"}.get(
        job.sync_type or "", "Replication"
    )


def operation_name(line: Listed) -> str | None:
    """What the job is doing now."""
    if not line.job.live:
        return line.job.status.value.capitalize()
    return step_title(line.step_running) if line.step_running else None


def job_row(line: Listed) -> shapes.JobRow:
    return shapes.JobRow(**row_values(line))


def row_values(line: Listed) -> dict[str, Any]:
    """The members of a job's line."""
    job = line.job
    began = job.started_at or job.created_at
    values: dict[str, Any] = {
        "job_id": job.id,
        "external_job_id": job.id,
        "job_type": job.kind,
        "status": job.status.value,
        "progress": round(job.percent, 2),
        "setup_progress": job.setup_percent,
        "started_at": began,
        "created_at": job.created_at,
        "display_name": display_name(job),
        "data_source": "oma_jobs",
        "context_id": job.context_id,
        "vm_name": line.vm_name,
        "steps_completed": line.steps_completed,
        "steps_total": line.steps_total,
        "bytes_transferred": job.bytes_transferred,
        "total_bytes": job.total_bytes,
        "bytes_per_second": job.bytes_per_second,
        "eta_seconds": job.eta_seconds,
        "sync_type": job.sync_type,
        "current_step": step_title(line.step_running) if line.step_running else None,
        "failed_step": step_title(line.step_failed) if line.step_failed else None,
        "completed_at": job.completed_at,
        "duration_seconds": int(((job.completed_at or now()) - began).total_seconds()),
        "cancel_requested_at": job.cancel_requested_at,
        "parent_job_id": job.parent_id,
    }
    if job.error_code:
        message = explain(job.error_code, job.error_facts)
        values |= {
            "error_code": message.code,
            "error_message": message.sentence,
            "error_category": message.category.value,
            "error_severity": message.severity.value,
            "actionable_steps": list(message.advice),
        }
    return values


def job_step(step: JobStep) -> shapes.JobStepRow:
    return shapes.JobStepRow(
        name=step.name,
        title=step_title(step.name),
        status=step.status.value,
        started_at=step.started_at,
        completed_at=step.completed_at,
        error_code=step.error_code,
    )


def job_disk(disk: JobDisk) -> shapes.JobDiskRow:
    """One disk of a job; its export name is left out on purpose."""
    return shapes.JobDiskRow(
        disk_id=disk.disk_id,
        label=disk.label,
        capacity_bytes=disk.capacity,
        status=disk.status,
        percent=round(disk.percent, 2),
        bytes_transferred=disk.bytes_transferred,
        total_bytes=disk.total_bytes,
        bytes_read=disk.bytes_read,
        bytes_sent=disk.bytes_sent,
        bytes_zero=disk.bytes_zero,
        bytes_per_second=disk.bytes_per_second,
        volume_id=disk.volume_id,
        mode=disk.mode,
        reason=scrub(disk.reason) if disk.reason else None,
        base_point=disk.base_point,
        point=disk.point,
        proof=disk.proof,
    )


def cbt_entry(reached: Reached) -> shapes.CbtEntry:
    disk = reached.disk
    return shapes.CbtEntry(
        job_id=disk.job_id,
        disk_id=disk.disk_id,
        change_id=disk.point or "",
        previous_change_id=disk.base_point,
        sync_type=disk.mode,
        bytes_transferred=disk.bytes_transferred,
        sync_success=disk.proof is not None,
        created_at=reached.at,
    )


def context_row(context: Context, current: Listed | None) -> shapes.ContextRow:
    return shapes.ContextRow(
        context_id=context.context_id,
        vm_name=context.vm_name,
        vmware_vm_id=context.vmware_vm_id,
        vm_path=context.vm_path,
        vcenter_host=context.vcenter_host,
        datacenter=context.datacenter,
        source=context.source,
        current_status=context.current_status.value,
        current_job_id=context.current_job_id,
        cpu_count=context.cpu_count,
        memory_mb=context.memory_mb,
        os_type=context.os_type,
        power_state=context.power_state,
        total_jobs_run=context.total_jobs_run,
        successful_jobs=context.successful_jobs,
        failed_jobs=context.failed_jobs,
        last_successful_job_id=context.last_successful_job_id,
        auto_added=context.auto_added,
        scheduler_enabled=context.scheduler_enabled,
        created_at=context.created_at,
        updated_at=context.updated_at,
        first_job_at=context.first_job_at,
        last_job_at=context.last_job_at,
        last_status_change=context.last_status_change,
        current_job=job_row(current) if current else None,
    )


def context_disk(disk: Disk) -> shapes.ContextDisk:
    return shapes.ContextDisk(
        disk_id=disk.disk_id,
        label=disk.label,
        path=disk.path,
        unit_number=disk.unit_number,
        capacity_bytes=disk.capacity,
        size_gb=-(-disk.capacity // GIB),
        volume_id=disk.volume_id,
        holds=disk.holds.value,
        point=disk.point,
        proved_at=disk.proved_at,
    )


def progress_row(line: Listed, disks: list[JobDisk]) -> shapes.ProgressRow:
    """The progress object of older readers, from what is recorded."""
    job, mebi = line.job, 1 << 20
    age = (now() - job.answered_at).total_seconds() if job.answered_at else None
    began = job.started_at or job.created_at
    return shapes.ProgressRow(
        job_id=job.id,
        status=job.status.value,
        sync_type=job.sync_type,
        phase=job.phase,
        percentage=round(job.percent, 2),
        setup_percentage=job.setup_percent,
        current_operation=operation_name(line),
        bytes_transferred=job.bytes_transferred,
        total_bytes=job.total_bytes,
        throughput={"current_mbps": round(job.bytes_per_second / mebi, 2)},
        timing={
            "start_time": began,
            "last_update": job.updated_at,
            "elapsed_ms": int(((job.completed_at or now()) - began).total_seconds() * 1000),
            "eta_seconds": job.eta_seconds,
        },
        disk_progresses=[
            shapes.Part(
                disk_id=disk.disk_id,
                label=disk.label,
                bytes_transferred=disk.bytes_transferred,
                total_bytes=disk.total_bytes,
                percent=round(disk.percent, 2),
                throughput_mbps=round(disk.bytes_per_second / mebi, 2),
                status=disk.status,
            )
            for disk in disks
        ],
        is_live=job.live and age is not None and age < _LIVE_WITHIN,
        last_polled=job.answered_at,
        unanswered_seconds=round(job.unanswered_seconds, 1),
    )

"""The summary of a job that ended: what its machine shows as its last operation (BEHAVIOUR.md section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from omactl.rules.messages import Facts, explain, step_title
from omactl.rules.transitions import JobStatus, StepStatus

__all__ = ["Ended", "StepFacts", "summary"]


@dataclass(frozen=True)
class StepFacts:
    name: str
    status: StepStatus


@dataclass(frozen=True)
class Ended:
    """The facts of a job's end. `unready` are the disks that keep the machine from being ready."""

    job_id: str
    kind: str
    status: JobStatus
    created_at: datetime
    ended_at: datetime
    steps: Sequence[StepFacts]
    code: str | None = None
    facts: Facts | None = None
    proof: str | None = None
    bytes_transferred: int = 0
    unready: tuple[str, ...] = ()


def summary(ended: Ended) -> dict[str, Any]:
    """The JSON object kept on the machine; free text in it is public."""
    done = sum(step.status is StepStatus.COMPLETED for step in ended.steps)
    total = len(ended.steps)
    answer: dict[str, Any] = {
        "job_id": ended.job_id,
        "external_job_id": ended.job_id,
        "operation_type": ended.kind,
        "status": ended.status.value,
        "progress": 100 if ended.status is JobStatus.COMPLETED else round(100 * done / total) if total else 0,
        "timestamp": ended.ended_at.isoformat(),
        "duration_seconds": int((ended.ended_at - ended.created_at).total_seconds()),
        "steps_completed": done,
        "steps_total": total,
        "bytes_transferred": ended.bytes_transferred,
    }
    if ended.proof:
        answer["proof"] = ended.proof
    if ended.unready:
        answer["disks_not_ready"] = list(ended.unready)
    if ended.code:
        answer |= _what_failed(ended)
    return answer


def _what_failed(ended: Ended) -> dict[str, Any]:
    message = explain(ended.code or "unknown", ended.facts)
    answer: dict[str, Any] = {
        "error_code": message.code,
        "error_message": message.sentence,
        "error_category": message.category.value,
        "error_severity": message.severity.value,
        "actionable_steps": list(message.advice),
    }
    if failed := next((step.name for step in ended.steps if step.status is StepStatus.FAILED), None):
        answer |= {"failed_step": step_title(failed), "failed_step_internal": failed}
    return answer

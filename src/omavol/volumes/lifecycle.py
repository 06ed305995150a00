"""A volume's life as operations: create, attach, detach, delete.

The order (BEHAVIOUR.md 2.4, decided): attach = provider, device and name, check, then the record; detach = drop what is
served, the name, then provider. After a failure the provider is asked where the volume is, and the record says that.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omavol import failpoint
from omavol.cloud.volumes import CloudError, Described
from omavol.schema.common import Problem
from omavol.schema.volumes import OperationType, VolumeStatus
from omavol.volumes.devices import WAIT
from omavol.volumes.errors import ServerAway, VolumeError
from omavol.volumes.house import House
from omavol.volumes.operations import Step, Task, Work
from omavol.volumes.rows import VOLUMES, OperationRow, VolumeRow, existing, issued_to, live_session
from omavol.volumes.sessions import open_here

__all__ = ["LIFECYCLE", "TRANSITIONS", "Transition", "state_shown"]


@dataclass(frozen=True)
class Transition:
    """From which states an operation may start, and the volume's state while it runs."""

    start: frozenset[VolumeStatus]
    running: VolumeStatus


V = VolumeStatus
TRANSITIONS: Mapping[OperationType, Transition] = {
    OperationType.CREATE: Transition(frozenset({V.CREATING}), V.CREATING),
    OperationType.ATTACH: Transition(frozenset({V.DETACHED}), V.ATTACHING),
    OperationType.DETACH: Transition(frozenset({V.ATTACHED, V.ERROR}), V.DETACHING),
    OperationType.DELETE: Transition(frozenset({V.DETACHED, V.ATTACHED, V.ERROR}), V.DELETING),
}


def _begin(db: sqlite3.Connection, volume: VolumeRow, operation: OperationRow) -> None:
    transition = TRANSITIONS[operation.type]
    existing(db, volume.volume_id)
    if volume.status not in transition.start:
        raise VolumeError(
            409,
            "wrong_state",
            f"volume {volume.volume_id} is {volume.status}: cannot {operation.type}",
            f"It must be {' or '.join(sorted(transition.start))}.",
        )
    if session := live_session(db, volume.volume_id):
        raise VolumeError(
            409,
            "session_open",
            f"job {session.job} (epoch {session.epoch}) has volume {volume.volume_id}: session {session.session_id}",
            "End or prove the session first.",
        )
    changes = {"vm_id": operation.vm_id} if operation.type is OperationType.ATTACH else {}
    VOLUMES.update(db, volume.volume_id, status=transition.running, **changes)


# --- steps ------------------------------------------------------------------------------------------------------


def _create(task: Task) -> None:
    volume = task.volume
    task.found["capacity"] = task.provider.create(volume.volume_id, volume.name, volume.size, volume.options)
    failpoint.reach("daemon.volume-created")


def _delete(task: Task) -> None:
    task.provider.delete(task.volume.volume_id)


def _attach(task: Task) -> None:
    assert task.operation.vm_id is not None
    there = task.provider.attach(task.volume.volume_id, task.operation.vm_id)
    task.found["there"] = there
    task.found["capacity"] = there.capacity
    failpoint.reach("daemon.volume-attached")


def _find(task: Task) -> None:
    """Its device, under its name; a volume that another machine has got has none here."""
    there = task.found["there"]
    task.found["path"] = None
    if task.house.here(there):
        task.found["path"] = str(task.house.devices.appear(task.volume, there, WAIT))
    failpoint.reach("daemon.device-found")


def _part(task: Task) -> None:
    task.house.devices.part(task.volume)
    failpoint.reach("daemon.device-parted")


def _detach(task: Task) -> None:
    task.provider.detach(task.volume.volume_id)


def _check(task: Task) -> None:
    """The device is what it should be: there, regular or a block device, and large enough."""
    path, volume = task.found["path"], task.volume
    if path is None:
        return
    descriptor = open_here(path)
    try:
        mode, size = os.fstat(descriptor).st_mode, os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)) or size < volume.size:
        raise VolumeError(
            502, "device_wrong", f"{path} has {size} bytes, volume {volume.volume_id} needs {volume.size}"
        )


def _drop_exports(task: Task) -> None:
    """No session is open; an export that is still served was left behind by a crash. A server that is away has none."""
    try:
        served = [export.name for export in task.house.served.listing().exports]
    except ServerAway:
        return
    with task.house.record.read() as db:
        issued = issued_to(db, served)
    for name, volume_id in issued.items():
        if volume_id == task.volume.volume_id:
            task.house.served.remove(name)


# --- ends -------------------------------------------------------------------------------------------------------


def _created(db: sqlite3.Connection, task: Task) -> dict[str, Any]:
    VOLUMES.update(db, task.volume.volume_id, status=V.DETACHED, capacity=task.found["capacity"])
    return {"volume_id": task.volume.volume_id, "message": f"volume {task.volume.persistent_name} created"}


def _attached(db: sqlite3.Connection, task: Task) -> dict[str, Any]:
    path = task.found["path"]
    VOLUMES.update(db, task.volume.volume_id, status=V.ATTACHED, device_path=path, capacity=task.found["capacity"])
    return {
        "volume_id": task.volume.volume_id,
        "vm_id": task.operation.vm_id,
        "device_path": path,
        "message": f"volume {task.volume.persistent_name} attached",
    }


def _detached(db: sqlite3.Connection, task: Task) -> dict[str, Any]:
    VOLUMES.update(db, task.volume.volume_id, status=V.DETACHED, device_path=None, vm_id=None)
    return {
        "volume_id": task.volume.volume_id,
        "device_path": task.volume.device_path,
        "message": f"volume {task.volume.persistent_name} detached",
    }


def _deleted(db: sqlite3.Connection, task: Task) -> dict[str, Any]:
    VOLUMES.update(db, task.volume.volume_id, status=V.DELETED, device_path=None, vm_id=None)
    return {"volume_id": task.volume.volume_id, "message": f"volume {task.volume.persistent_name} deleted"}


def _failed(db: sqlite3.Connection, task: Task, problem: Problem) -> None:
    """Record where the provider says the volume is. Nothing there is right only after a create or a delete."""
    try:
        there = task.provider.describe(task.volume.volume_id)
    except (CloudError, VolumeError):
        VOLUMES.update(db, task.volume.volume_id, status=V.ERROR)
        return
    gone = task.operation.type in (OperationType.CREATE, OperationType.DELETE)
    shown = state_shown(task.house, there, task.volume, gone=V.DELETED if gone else V.ERROR)
    VOLUMES.update(db, task.volume.volume_id, **shown)


def state_shown(house: House, there: Described | None, volume: VolumeRow, *, gone: VolumeStatus) -> dict[str, Any]:
    """The columns of a volume that is where the provider shows it; `gone` is its state when it shows none.

    Attached here without a device that can be had is an error, and the record says so.
    """
    if there is None:
        return {"status": gone, "device_path": None}
    if there.capacity < volume.size:
        return {"status": V.ERROR, "device_path": None, "capacity": there.capacity}
    status, path = V.DETACHED if there.attached_to is None else V.ATTACHED, there.path
    if path is None and house.here(there):
        try:
            path = str(house.devices.appear(volume, there, 0))
        except (VolumeError, OSError):
            status = V.ERROR
    return {"status": status, "vm_id": there.attached_to, "device_path": path, "capacity": there.capacity}


_CREATE = Step("provider-create", _create, undo=_delete, undo_partly=True)
_ATTACH = Step("provider-attach", _attach, undo=_detach)
_FIND = Step("find-device", _find, undo=_part, undo_partly=True)
_CHECK = Step("check-device", _check)
_DROP = Step("drop-exports", _drop_exports)
_PART = Step("remove-name", _part)
_DETACH = Step("provider-detach", _detach)
_DELETE = Step("provider-delete", _delete)

LIFECYCLE: Mapping[OperationType, Work] = {
    OperationType.CREATE: Work(_begin, (_CREATE,), _created, _failed),
    OperationType.ATTACH: Work(_begin, (_ATTACH, _FIND, _CHECK), _attached, _failed),
    OperationType.DETACH: Work(_begin, (_DROP, _PART, _DETACH), _detached, _failed),
    OperationType.DELETE: Work(_begin, (_DROP, _PART, _DETACH, _DELETE), _deleted, _failed),
}

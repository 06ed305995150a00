"""CloudStack's volumes, by its API.

A volume of ours is the one named `oma-<volume id>`, and so is a snapshot: the name is given before anything else is
known, so a create whose answer was lost finds what it made. Every change ends by reading the volume again: that is what
is believed, not a job's status or an answer that did not come. Only whether it was reverted a volume does not show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omavol import failpoint
from omavol.cloud.asking import ENTITY_MISSING, AnswerLost, Asking, CloudRefused, refusal, seconds_of
from omavol.cloud.asyncjobs import Ended, Jobs, Ledger, Pending
from omavol.cloud.volumes import (
    CloudError,
    Described,
    NoSuchSnapshot,
    NoSuchVolume,
    NotAttachable,
    ProviderMisconfigured,
    VolumeInUse,
    capacity_for,
)
from omavol.schema.volumes import Provider

__all__ = ["CloudStackProvider", "volume_name"]

GIB = 1 << 30
NEEDED = ("api_url", "api_key_file", "secret_file", "zone_id", "disk_offering_id")
OPTIONAL = ("timeout", "job_timeout")
JOB_TIMEOUT = 600.0  # seconds for a job
LOOK_PAUSE = 0.2  # seconds before the second look, doubled each time
SEEN = 20.0  # seconds in which a command whose answer was lost shows, or did not happen
GONE = frozenset({"Destroy", "Destroying", "Expunging", "Expunged"})
BUSY = frozenset({"Creating", "Attaching", "Migrating", "Resizing", "Copying", "Snapshotting", "RevertSnapshotting"})
TAKEN = "BackedUp"  # a snapshot that is whole; with no secondary storage CloudStack calls it so too
SPOILT = frozenset({"Error", "Destroying", "Destroyed"})
EITHER = "What the volume holds is not known: revert it again before it is used."


def volume_name(volume_id: str) -> str:
    """The name that a volume of ours, or a snapshot, has in the cloud.

    >>> volume_name("7b0c")
    'oma-7b0c'
    """
    return f"oma-{volume_id}"


class CloudStackProvider:
    """A `SnapshotProvider`; `appliance_vm_id` is this appliance's id in the cloud."""

    def __init__(self, row: Provider, ledger: Ledger) -> None:
        settings = row.settings
        if missing := [name for name in NEEDED if not settings.get(name)]:
            raise ProviderMisconfigured(
                f"the cloudstack provider needs {', '.join(missing)}",
                advice=("PUT /api/v1/provider with these settings; the keys are in files that only root reads.",),
            )
        if unknown := sorted(set(settings) - {*NEEDED, *OPTIONAL}):
            raise ProviderMisconfigured(f"the cloudstack provider has no settings {', '.join(unknown)}")
        self.appliance_vm_id = row.appliance_vm_id
        self._zone, self._offering = settings["zone_id"], settings["disk_offering_id"]
        self._ledger = ledger
        self._cloud = Asking(settings)
        self._job_timeout = seconds_of(settings, "job_timeout", JOB_TIMEOUT)
        self._jobs = Jobs(self._cloud, self._job_timeout)

    @classmethod
    def from_settings(cls, row: Provider, state: Path) -> CloudStackProvider:
        return cls(row, Ledger(state / "cloud-jobs"))

    # --- VolumeProvider ---

    def create(self, volume_id: str, name: str, size: int, options: Mapping[str, str]) -> int:
        self._finish_pending(volume_id)
        capacity = capacity_for(size)
        if self._find(volume_id) is None:
            self._change(
                volume_id,
                "createVolume",
                lambda: self._find(volume_id) is not None,
                name=volume_name(volume_id),
                size=capacity // GIB,
                diskofferingid=options.get("disk_offering_id") or self._offering,
                zoneid=options.get("zone_id") or self._zone,
            )
        there = self._must_exist(volume_id)
        if there["size"] < size:
            raise CloudError(f"the cloud made volume {volume_id} with {there['size']} bytes, less than {size}")
        return int(there["size"])

    def attach(self, volume_id: str, vm_id: str) -> Described:
        self._finish_pending(volume_id)
        there = self._must_exist(volume_id)
        if there.get("virtualmachineid") not in (None, vm_id):
            raise NotAttachable(f"volume {volume_id} is attached to machine {there['virtualmachineid']}")
        if there.get("virtualmachineid") is None:
            self._machine(vm_id)
            self._change(
                volume_id,
                "attachVolume",
                lambda: self._must_exist(volume_id).get("virtualmachineid") == vm_id,
                id=there["id"],
                virtualmachineid=vm_id,
            )
        return _described(self._must_exist(volume_id))

    def detach(self, volume_id: str) -> None:
        self._finish_pending(volume_id)
        there = self._find(volume_id)
        if there is not None and there.get("virtualmachineid") is not None:
            self._change(
                volume_id,
                "detachVolume",
                lambda: (self._find(volume_id) or {}).get("virtualmachineid") is None,
                id=there["id"],
            )

    def delete(self, volume_id: str) -> None:
        self._finish_pending(volume_id)
        there = self._find(volume_id)
        if there is None:
            return
        if there.get("virtualmachineid") is not None:
            raise NotAttachable(
                f"volume {volume_id} is attached to machine {there['virtualmachineid']}", advice=("Detach it first.",)
            )
        self._change(volume_id, "deleteVolume", lambda: self._find(volume_id) is None, id=there["id"])

    def describe(self, volume_id: str) -> Described | None:
        there = self._find(volume_id)
        return _described(there) if there is not None else None

    # --- what makes it a SnapshotProvider ---

    def resize(self, volume_id: str, size: int) -> int:
        self._finish_pending(volume_id)
        there = self._idle(volume_id)
        if there["size"] < size:
            self._change(
                volume_id,
                "resizeVolume",
                lambda: self._must_exist(volume_id)["size"] >= size,
                id=there["id"],
                size=capacity_for(size) // GIB,
            )
        return int(self._must_exist(volume_id)["size"])

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self._finish_pending(volume_id)
        if self._find_snapshot(snapshot_id) is None:
            there = self._idle(volume_id)
            try:
                self._change(
                    volume_id,
                    "createSnapshot",
                    lambda: self._state_of(snapshot_id) == TAKEN,
                    volumeid=there["id"],
                    name=volume_name(snapshot_id),
                )
            except AnswerLost:
                if self._find_snapshot(snapshot_id) is None:
                    raise
        # One whose job nobody knows is made all the same: it says itself how far it is.
        self._shows(lambda: self._state_of(snapshot_id) in (TAKEN, None), self._job_timeout)
        if (state := self._state_of(snapshot_id)) != TAKEN:
            raise CloudError(
                f"snapshot {snapshot_id} of volume {volume_id} is not whole: the cloud calls it {state or 'failed'}",
                advice=("Take another one; the cloud may remove this one.",),
            )

    def revert(self, volume_id: str, snapshot_id: str) -> Described:
        self._finish_pending(volume_id)
        there, snapshot = self._idle(volume_id), self._find_snapshot(snapshot_id)
        if snapshot is None or snapshot["volumeid"] != there["id"] or snapshot["state"] != TAKEN:
            raise NoSuchSnapshot(f"volume {volume_id} has no whole snapshot {snapshot_id} in the cloud")
        machine = there.get("virtualmachineid")
        if machine is not None and (state := self._machine(machine)["state"]) != "Stopped":
            raise VolumeInUse(
                f"volume {volume_id} is attached to machine {machine}, which is {state}",
                advice=("Detach it, or stop the machine: the cloud reverts no volume of a running one.",),
            )
        try:
            ended = self._await(self._send(volume_id, "revertSnapshot", id=snapshot["id"]))
        except AnswerLost as lost:
            with suppress(CloudError):
                self._idle(volume_id)  # if it was heard, it is over before anything else is told of the volume
            raise _with_advice(lost, EITHER) from None
        there = self._idle(volume_id)
        self._ledger.forget(volume_id)
        if ended.error:
            raise _with_advice(_failed("revertSnapshot", ended), EITHER)
        return _described(there)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self._finish_pending(volume_id)
        there = self._find_snapshot(snapshot_id)
        if there is not None:
            self._change(volume_id, "deleteSnapshot", lambda: self._find_snapshot(snapshot_id) is None, id=there["id"])

    # --- changes, and what became of them ---

    def _change(self, volume_id: str, command: str, seen: Callable[[], bool], **arguments: object) -> None:
        """Send a command and return once the volume shows that it happened; CloudError where it does not."""
        try:
            pending = self._send(volume_id, command, **arguments)
        except AnswerLost:
            if self._shows(seen, SEEN):
                return
            raise
        ended = self._await(pending)
        happened = self._shows(seen, 0 if ended.error and ended.known else SEEN)
        self._ledger.forget(volume_id)
        if not happened:
            raise _failed(command, ended)

    def _send(self, volume_id: str, command: str, **arguments: object) -> Pending | None:
        """Send a command; its job, if it has one, is in the ledger when this returns."""
        answer = self._cloud.ask(command, **arguments)
        failpoint.reach(f"cloud.{command}-sent")
        if "jobid" not in answer:
            return None
        pending = Pending(command, str(answer["jobid"]))
        self._ledger.remember(volume_id, pending)
        failpoint.reach(f"cloud.{command}-remembered")
        return pending

    def _await(self, pending: Pending | None) -> Ended:
        """How the job ended; it stays in the ledger. A command without one is over when it is answered."""
        if pending is None:
            return Ended()
        ended = self._jobs.wait(pending)
        failpoint.reach(f"cloud.{pending.command}-ended")
        return ended

    def _finish_pending(self, volume_id: str) -> None:
        """A job of before a crash is awaited, so that nothing is asked while it may still do something."""
        pending = self._ledger.recall(volume_id)
        if pending is not None:
            self._jobs.wait(pending)
            self._ledger.forget(volume_id)

    def _shows(self, seen: Callable[[], bool], seconds: float) -> bool:
        """Whether the volume shows it, now or within that time: an effect may come after its answer."""
        deadline, pause = time.monotonic() + seconds, LOOK_PAUSE
        while not seen():
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
        return True

    # --- questions ---

    def _find(self, volume_id: str) -> dict[str, Any] | None:
        """The volume by its name. Two of one name are an error: neither can be told from the other."""
        name = volume_name(volume_id)
        answer = self._cloud.read("listVolumes", name=name, listall=True)
        return _only_one("volumes", name, [each for each in answer.get("volume", []) if each["state"] not in GONE])

    def _must_exist(self, volume_id: str) -> dict[str, Any]:
        there = self._find(volume_id)
        if there is None:
            raise NoSuchVolume(f"the cloud has no volume named {volume_name(volume_id)}")
        return there

    def _idle(self, volume_id: str) -> dict[str, Any]:
        """The volume when the cloud does nothing with it, for which this waits a little."""
        self._shows(lambda: self._must_exist(volume_id)["state"] not in BUSY, SEEN)
        there = self._must_exist(volume_id)
        if there["state"] in BUSY:
            raise VolumeInUse(
                f"volume {volume_id} is {there['state']} in the cloud", advice=("Try again when that is over.",)
            )
        return there

    def _find_snapshot(self, snapshot_id: str) -> dict[str, Any] | None:
        """The snapshot by its name, whole or in the making; one that failed is none."""
        name = volume_name(snapshot_id)
        answer = self._cloud.read("listSnapshots", name=name, listall=True)
        return _only_one(
            "snapshots", name, [each for each in answer.get("snapshot", []) if each["state"] not in SPOILT]
        )

    def _state_of(self, snapshot_id: str) -> str | None:
        there = self._find_snapshot(snapshot_id)
        return str(there["state"]) if there is not None else None

    def _machine(self, vm_id: str) -> dict[str, Any]:
        try:
            machines = self._cloud.read("listVirtualMachines", id=vm_id, listall=True).get("virtualmachine", [])
        except CloudRefused as refused:
            if refused.number != ENTITY_MISSING:
                raise
            machines = []  # an id that the cloud does not know, or no longer
        if not machines:
            whose = "this appliance's own id" if vm_id == self.appliance_vm_id else "that id"
            raise ProviderMisconfigured(
                f"the cloud knows no machine {vm_id} ({whose})", advice=("Check appliance_vm_id of the provider.",)
            )
        machine: dict[str, Any] = machines[0]
        return machine


def _only_one(kind: str, name: str, there: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    found = [each for each in there if each["name"] == name]
    if len(found) > 1:
        ids = " and ".join(each["id"] for each in found)
        raise CloudError(f"the cloud has two {kind} named {name}: {ids}", advice=("Remove the one that is empty.",))
    return found[0] if found else None


def _with_advice(error: CloudError, advice: str) -> CloudError:
    error.advice = (*error.advice, advice)
    return error


def _described(there: Mapping[str, Any]) -> Described:
    return Described(int(there["size"]), there.get("virtualmachineid"), None, str(there["id"]))


def _failed(command: str, ended: Ended) -> CloudError:
    """The error for a job that did not do what it was to do."""
    if not ended.error:
        return CloudError(
            f"{command} succeeded, as the cloud says, and the volume does not show it",
            advice=("Look at the volume in the cloud; try again when it shows where it is.",),
        )
    return refusal(command, ended.code, ended.error)

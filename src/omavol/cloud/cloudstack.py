"""CloudStack's volumes, by its API.

A volume of ours is the one named `oma-<volume id>`: the name is given before anything else is known, so a create whose
answer was lost finds what it made. Every change ends by reading the volume again: that is what is believed, not a job's
status or an answer that did not come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omavol import failpoint
from omavol.cloud.asking import ENTITY_MISSING, AnswerLost, Asking, CloudRefused, refusal, seconds_of
from omavol.cloud.asyncjobs import Ended, Jobs, Ledger, Pending
from omavol.cloud.volumes import (
    CloudError,
    Described,
    NoSuchVolume,
    NotAttachable,
    ProviderMisconfigured,
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


def volume_name(volume_id: str) -> str:
    """The name that a volume of ours has in the cloud.

    >>> volume_name("7b0c")
    'oma-7b0c'
    """
    return f"oma-{volume_id}"


class CloudStackProvider:
    """`appliance_vm_id` is this appliance's id in the cloud; the five calls are those of `VolumeProvider`."""

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
        self._jobs = Jobs(self._cloud, seconds_of(settings, "job_timeout", JOB_TIMEOUT))

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

    # --- changes, and what became of them ---

    def _change(self, volume_id: str, command: str, seen: Callable[[], bool], **arguments: object) -> None:
        """Send a command and return once the volume shows that it happened; CloudError where it does not."""
        try:
            answer = self._cloud.ask(command, **arguments)
        except AnswerLost:
            if self._shows(seen, SEEN):
                return
            raise
        failpoint.reach(f"cloud.{command}-sent")
        if "jobid" not in answer:
            if not self._shows(seen, SEEN):
                raise CloudError(f"{command} was answered, and the volume does not show it")
            return
        pending = Pending(command, str(answer["jobid"]))
        self._ledger.remember(volume_id, pending)
        failpoint.reach(f"cloud.{command}-remembered")
        ended = self._jobs.wait(pending)
        failpoint.reach(f"cloud.{command}-ended")
        happened = self._shows(seen, 0 if ended.error and ended.known else SEEN)
        self._ledger.forget(volume_id)
        if not happened:
            raise _failed(command, ended)

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
        found = [each for each in answer.get("volume", []) if each["name"] == name and each["state"] not in GONE]
        if len(found) > 1:
            ids = " and ".join(each["id"] for each in found)
            raise CloudError(
                f"the cloud has two volumes named {name}: {ids}", advice=("Remove the one that is empty.",)
            )
        return found[0] if found else None

    def _must_exist(self, volume_id: str) -> dict[str, Any]:
        there = self._find(volume_id)
        if there is None:
            raise NoSuchVolume(f"the cloud has no volume named {volume_name(volume_id)}")
        return there

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

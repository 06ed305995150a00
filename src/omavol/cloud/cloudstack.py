"""CloudStack's volumes, by its API (the `cs` library signs and sends).

A volume of ours is the one named `oma-<volume id>`: the name is given before anything else is known, so a create whose
answer was lost finds what it made. Every change ends by reading the volume again: that is what is believed, not a job's
status or an answer that did not come. Secrets are files, read at each call, never logged and never in an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omavol import failpoint
from omavol.cloud.asyncjobs import Ended, Jobs, Ledger, Pending
from omavol.cloud.volumes import (
    CloudError,
    Described,
    NoSpace,
    NoSuchVolume,
    NotAttachable,
    ProviderMisconfigured,
    capacity_for,
)
from omavol.schema.volumes import Provider

if TYPE_CHECKING:
    from cs import CloudStack
    from requests import Session

__all__ = ["CloudStackProvider", "volume_name"]

GIB = 1 << 30
NEEDED = ("api_url", "api_key_file", "secret_file", "zone_id", "disk_offering_id")
OPTIONAL = ("timeout", "job_timeout")
TIMEOUT, JOB_TIMEOUT = 30.0, 600.0  # seconds for an answer, and for a job
READS = 4  # attempts at a question that could not be asked
READ_PAUSE = 0.2  # seconds before the second, doubled each time
SEEN = 20.0  # seconds in which a command whose answer was lost shows, or did not happen
GONE = frozenset({"Destroy", "Destroying", "Expunging", "Expunged"})
BUSY = frozenset({"Creating", "Attaching", "Migrating", "Resizing", "Copying", "Snapshotting", "RevertSnapshotting"})
NO_CAPACITY, NO_SUCH_COMMAND, UNAUTHORISED = 533, 432, 401
ENTITY_MISSING = 431
RETRIED = frozenset({429, 502, 503, 504})


def volume_name(volume_id: str) -> str:
    """The name that a volume of ours has in the cloud.

    >>> volume_name("7b0c")
    'oma-7b0c'
    """
    return f"oma-{volume_id}"


class AnswerLost(CloudError):
    """The command was sent, and no answer that can be read came: it may have happened."""

    code = "cloud_answer_lost"


class CloudRefused(CloudError):
    """CloudStack said no; `number` is its ApiErrorCode, or an HTTP status."""

    code = "cloud_refused"

    def __init__(self, detail: str, number: int, *, advice: tuple[str, ...] = ()) -> None:
        super().__init__(detail, advice=advice)
        self.number = number


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
        self._settings = settings
        self._ledger = ledger
        self._jobs = Jobs(self, _seconds(settings, "job_timeout", JOB_TIMEOUT))

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
            answer = self._ask(command, **arguments)
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
        deadline, pause = time.monotonic() + seconds, READ_PAUSE
        while not seen():
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
        return True

    # --- questions ---

    def job(self, job_id: str) -> dict[str, Any] | None:
        """For `Jobs`: the job as the cloud has it, None where it knows none."""
        try:
            return self._read("queryAsyncJobResult", jobid=job_id)
        except CloudRefused as refused:
            if refused.number == ENTITY_MISSING:
                return None
            raise

    def _find(self, volume_id: str) -> dict[str, Any] | None:
        """The volume by its name. Two of one name are an error: neither can be told from the other."""
        name = volume_name(volume_id)
        answer = self._read("listVolumes", name=name, listall=True)
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
        machines = self._read("listVirtualMachines", id=vm_id, listall=True).get("virtualmachine", [])
        if not machines:
            whose = "this appliance's own id" if vm_id == self.appliance_vm_id else "that id"
            raise ProviderMisconfigured(
                f"the cloud knows no machine {vm_id} ({whose})", advice=("Check appliance_vm_id of the provider.",)
            )
        machine: dict[str, Any] = machines[0]
        return machine

    def _read(self, command: str, **arguments: object) -> dict[str, Any]:
        """A question, asked again when it could not be: it changes nothing."""
        for attempt in range(READS):
            try:
                return self._ask(command, **arguments)
            except (AnswerLost, CloudRefused) as error:
                retried = isinstance(error, AnswerLost) or error.number in RETRIED
                if not retried or attempt == READS - 1:
                    raise
            time.sleep(READ_PAUSE * 2**attempt)
        raise AssertionError("not reached")

    def _ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """One request. CloudRefused: it was refused, nothing was done. AnswerLost: nobody knows."""
        import requests
        from cs import CloudStackApiException, CloudStackException

        try:
            with requests.Session() as session:
                answer = getattr(self._client(session), command)(**arguments)
        except CloudStackApiException as error:
            raise _refused(command, error.error or {}) from None
        except CloudStackException as error:
            status = getattr(error.response, "status_code", 0)
            if status in RETRIED:
                raise CloudRefused(f"{command}: the cloud answered HTTP {status}", status) from None
            raise AnswerLost(f"{command}: the cloud's answer cannot be read (HTTP {status})") from None
        except requests.exceptions.ConnectTimeout:
            raise CloudRefused(f"{command}: the cloud at {self._settings['api_url']} does not answer", 503) from None
        except requests.exceptions.RequestException as error:
            # Its text has the request's address, and that the key and the signature.
            raise AnswerLost(f"{command}: the connection to the cloud failed ({type(error).__name__})") from None
        return answer if isinstance(answer, dict) else {}

    def _client(self, session: Session) -> CloudStack:
        from cs import CloudStack

        key, secret = (_secret(self._settings[name], name) for name in ("api_key_file", "secret_file"))
        timeout = int(_seconds(self._settings, "timeout", TIMEOUT))
        url = self._settings["api_url"]
        return CloudStack(endpoint=url, key=key, secret=secret, method="post", timeout=timeout, session=session)


def _described(there: Mapping[str, Any]) -> Described:
    return Described(int(there["size"]), there.get("virtualmachineid"), None, str(there["id"]))


def _failed(command: str, ended: Ended) -> CloudError:
    """The error for a job that did not do what it was to do."""
    if not ended.error:
        return CloudError(
            f"{command} succeeded, as the cloud says, and the volume does not show it",
            advice=("Look at the volume in the cloud; try again when it shows where it is.",),
        )
    return _kind(command, ended.code, ended.error)


def _refused(command: str, error: Mapping[str, Any]) -> CloudError:
    return _kind(command, int(error.get("errorcode", 0)), str(error.get("errortext", "no reason given")))


def _kind(command: str, number: int, text: str) -> CloudError:
    detail = f"{command}: {text}"
    if number == UNAUTHORISED:
        return ProviderMisconfigured(
            f"{command}: the cloud does not accept the key", advice=("Check the key files, and this machine's clock.",)
        )
    if number == NO_CAPACITY:
        return NoSpace(detail, advice=("Free primary storage in the zone, or take another disk offering.",))
    if "VM snapshots" in text:
        return NotAttachable(detail, advice=("Remove the snapshots of the machine first.",))
    return CloudRefused(detail, number, advice=("The cloud's own words say why.",))


def _secret(path: str, name: str) -> str:
    try:
        secret = Path(path).read_text().strip()
    except OSError as error:
        raise ProviderMisconfigured(f"{name} {path} cannot be read: {error.strerror}") from error
    if not secret:
        raise ProviderMisconfigured(f"{name} {path} is empty")
    return secret


def _seconds(settings: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(settings.get(name, default))
    except ValueError:
        raise ProviderMisconfigured(f"{name} is a number of seconds, not {settings[name]!r}") from None
    if not 0 < seconds <= 86400:
        raise ProviderMisconfigured(f"{name} is more than 0 and at most 86400 seconds, not {seconds:g}")
    return seconds

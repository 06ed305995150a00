"""The local provider: a volume is a sparse file of this machine, attached means that the appliance may open it.

`<id>.raw` holds the bytes; `<id>.attached` beside it names the machine that has it. Both appear by rename or link
and are gone by unlink, each followed by an fsync of the folder: after any crash the folder says what is true.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

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

__all__ = ["LocalProvider"]

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LocalProvider:
    """Files under `folder`; the only machine it knows is `appliance_vm_id`."""

    def __init__(self, folder: Path, appliance_vm_id: str) -> None:
        self.folder = folder
        self.appliance_vm_id = appliance_vm_id

    @classmethod
    def from_settings(cls, row: Provider, state: Path) -> LocalProvider:
        if row.settings:
            unknown = ", ".join(sorted(row.settings))
            raise ProviderMisconfigured(f"the local provider has no settings, and was given: {unknown}")
        return cls(state / "volumes", row.appliance_vm_id)

    def create(self, volume_id: str, name: str, size: int, options: Mapping[str, str]) -> int:
        path, capacity = self._file(volume_id), capacity_for(size)
        part = path.with_suffix(".part")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if (there := self.describe(volume_id)) is not None:
                return self._checked(volume_id, there, size)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.ftruncate(descriptor, capacity)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            part.rename(path)
            self._settle()
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            _refuse(error, f"volume {volume_id} of {capacity} bytes cannot be made in {self.folder}")
        return capacity

    def attach(self, volume_id: str, vm_id: str) -> Described:
        if vm_id != self.appliance_vm_id:
            raise NotAttachable(
                f"the local provider knows no machine {vm_id!r}",
                advice=(f"Attach to the appliance itself, {self.appliance_vm_id!r} (GET /api/v1/provider).",),
            )
        there = self._must_exist(volume_id)
        if there.attached_to not in (None, vm_id):
            raise NotAttachable(f"volume {volume_id} is attached to {there.attached_to!r}")
        if there.attached_to is None:
            self._mark(volume_id, vm_id)
        return self._must_exist(volume_id)

    def detach(self, volume_id: str) -> None:
        self._unlink(self._mark_of(volume_id))

    def delete(self, volume_id: str) -> None:
        there = self.describe(volume_id)
        if there is not None and there.attached_to is not None:
            raise NotAttachable(
                f"volume {volume_id} is attached to {there.attached_to!r}", advice=("Detach it first.",)
            )
        self._unlink(self._file(volume_id))

    def describe(self, volume_id: str) -> Described | None:
        path = self._file(volume_id)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            _refuse(error, f"volume {volume_id} cannot be looked at")
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise NotAttachable(
                f"{path} is not a file of this appliance (type, owner or link count differ)",
                advice=("Something else put it there: look at it by hand.",),
            )
        try:
            attached_to: str | None = self._mark_of(volume_id).read_text()
        except FileNotFoundError:
            attached_to = None
        except OSError as error:
            _refuse(error, f"volume {volume_id} cannot be looked at")
        return Described(found.st_size, attached_to, str(path) if attached_to is not None else None)

    def _file(self, volume_id: str) -> Path:
        if not _ID.fullmatch(volume_id):
            raise CloudError(f"{volume_id!r} is not a volume id")
        return self.folder / f"{volume_id}.raw"

    def _mark_of(self, volume_id: str) -> Path:
        return self._file(volume_id).with_suffix(".attached")

    def _must_exist(self, volume_id: str) -> Described:
        there = self.describe(volume_id)
        if there is None:
            raise NoSuchVolume(f"volume {volume_id} has no file in {self.folder}")
        return there

    def _checked(self, volume_id: str, there: Described, size: int) -> int:
        if there.capacity < size:
            raise CloudError(f"volume {volume_id} is there with {there.capacity} bytes, less than {size}")
        return there.capacity

    def _mark(self, volume_id: str, vm_id: str) -> None:
        mark = self._mark_of(volume_id)
        part = mark.with_suffix(".attached-part")
        try:
            with part.open("w") as file:
                file.write(vm_id)
                file.flush()
                os.fsync(file.fileno())
            part.rename(mark)
            self._settle()
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            _refuse(error, f"volume {volume_id} cannot be attached")

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            if self.folder.exists():
                self._settle()
        except OSError as error:
            _refuse(error, f"{path} cannot be removed")

    def _settle(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse(error: OSError, what: str) -> NoReturn:
    """The provider's error for one of the system's."""
    detail = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise NoSpace(detail, advice=("Free space on the file system of the state directory.",)) from error
    if error.errno in (errno.EFBIG, errno.EINVAL):
        raise CloudError(detail, advice=("The file system does not take a file of this size.",)) from error
    raise CloudError(detail, advice=("Check the state directory and its rights.",)) from error

"""The block devices that the kernel shows now, read from sysfs: what each says of itself, and who is built on it.

Nothing is opened or probed. Partitions are left out; a device that goes while it is read is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["Kind", "Present", "present_device", "present_devices", "vpd_texts"]

SYS = Path("/sys")
SECTOR = 512
_KINDS = (
    ("virtio", re.compile(r"vd[a-z]+")),
    ("scsi", re.compile(r"sd[a-z]+")),
    ("nbd", re.compile(r"nbd\d+")),
    ("loop", re.compile(r"loop\d+")),
    ("dm", re.compile(r"dm-\d+")),
    ("md", re.compile(r"md\d+")),
)


class Kind(StrEnum):
    VIRTIO = "virtio"
    SCSI = "scsi"
    NBD = "nbd"
    LOOP = "loop"
    DM = "dm"
    MD = "md"
    OTHER = "other"


@dataclass(frozen=True)
class Present:
    """A whole device. `serials`: every text by which it may be known; `size` is bytes.

    `name` is the kernel's (vdb), `number` its MAJOR:MINOR; `built_on` are the names of the devices that claim it or a
    partition of it. Of a device-mapper device `label` and `uuid` are its name and UUID.
    """

    name: str
    number: str
    kind: Kind
    size: int
    read_only: bool = False
    serials: frozenset[str] = frozenset()
    built_on: tuple[str, ...] = ()
    label: str = ""
    uuid: str = ""

    @property
    def path(self) -> Path:
        return Path("/dev") / self.name


def present_devices(root: Path = SYS) -> list[Present]:
    """All of them, in the order of their names; empty ones (a loop or nbd device that nobody uses) are left out."""
    found = (present_device(entry.name, root) for entry in sorted((root / "block").iterdir()))
    return [device for device in found if device is not None]


def present_device(name: str, root: Path = SYS) -> Present | None:
    """One of them by the kernel's name; None where it is empty, a partition, or not there."""
    entry = root / "block" / name.replace("/", "!")
    try:
        size = int(_text(entry / "size")) * SECTOR
        if not size:
            return None
        return Present(
            name=entry.name.replace("!", "/"),
            number=_text(entry / "dev"),
            kind=_kind(entry.name),
            size=size,
            read_only=_text(entry / "ro") == "1",
            serials=frozenset(_serials(entry)),
            built_on=tuple(sorted(_built_on(entry))),
            label=_optional(entry / "dm/name"),
            uuid=_optional(entry / "dm/uuid"),
        )
    except OSError:  # it went away meanwhile
        return None


def _kind(name: str) -> Kind:
    return next((Kind(kind) for kind, pattern in _KINDS if pattern.fullmatch(name)), Kind.OTHER)


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip()


def _optional(path: Path) -> str:
    try:
        return _text(path)
    except OSError:
        return ""


def _serials(entry: Path) -> Iterator[str]:
    """virtio-blk's own; of SCSI the Unit Serial Number (page 0x80) and every text of page 0x83 (SPC-4, 7.8)."""
    if serial := _optional(entry / "serial"):
        yield serial
    for page in ("vpd_pg80", "vpd_pg83"):
        try:
            yield from vpd_texts((entry / "device" / page).read_bytes())
        except OSError:
            continue


def vpd_texts(page: bytes) -> list[str]:
    """The texts of a page 0x80 or 0x83; of a page cut short what is whole, of anything else nothing.

    Of page 0x83 those of the disk itself: the target's and its port's names are every disk's behind it (SPC-4, 7.8.6).

    >>> vpd_texts(b"\\0\\x80\\0\\4abcd"), vpd_texts(b"\\0\\x83\\0\\x08" + b"\\2\\0\\0\\4abcd"), vpd_texts(b"\\0\\x80")
    (['abcd'], ['abcd'], [])
    """
    if len(page) < 4 or page[1] not in (0x80, 0x83):
        return []
    body = page[4 : 4 + int.from_bytes(page[2:4], "big")]
    if page[1] == 0x80:
        return _ascii(body)
    texts = []
    while len(body) >= 4 and len(body) >= 4 + body[3]:
        code_set, association, designator = body[0] & 0x0F, body[1] >> 4 & 3, body[4 : 4 + body[3]]
        if code_set in (2, 3) and association == 0:  # ASCII, UTF-8; the addressed logical unit
            texts += _ascii(designator)
        body = body[4 + body[3] :]
    return texts


def _ascii(data: bytes) -> list[str]:
    """Its text without padding, if it is one of printable characters."""
    text = data.strip(b"\0 ")
    return [text.decode("ascii")] if text and all(32 <= byte < 127 for byte in text) else []


def _built_on(entry: Path) -> Iterator[str]:
    for folder in (entry / "holders", *entry.glob(f"{entry.name}*/holders")):
        if folder.is_dir():
            yield from (holder.name for holder in folder.iterdir())

"""A volume's persistent name: allocated once, unique, never reused and never recomputed (ARCHITECTURE.md rule 5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["first_choice", "slug", "unique"]

LENGTH = 48
_DISK_KEY = re.compile(r"(?:disk-?)?(\d{1,9})")
_FIRST_VMWARE_KEY = 2000


def slug(text: str) -> str:
    """Lower case letters, digits and single hyphens, at most LENGTH; `volume` when nothing of `text` is left.

    >>> slug("Web Server_01.example"), slug("ÄÖ"), slug("--")
    ('web-server-01-example', 'volume', 'volume')
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LENGTH].rstrip("-") or "volume"


def first_choice(volume_name: str, metadata: Mapping[str, str]) -> str:
    """The name that the facts of the disk ask for; VMware's key 2000 is disk 0.

    >>> first_choice("v", {"vm_name": "web01", "disk_number": "disk-2001"}), first_choice("My volume", {})
    ('web01-disk1', 'my-volume')
    """
    number = _DISK_KEY.fullmatch(metadata.get("disk_number", ""))
    if "vm_name" not in metadata or number is None:
        return slug(volume_name)
    n = int(number[1])
    return f"{slug(metadata['vm_name'])}-disk{n - _FIRST_VMWARE_KEY if n >= _FIRST_VMWARE_KEY else n}"


def unique(wanted: str, taken: Callable[[str], bool]) -> str:
    """`wanted`, or with the first suffix -2, -3, … that was never given out.

    >>> unique("a", {"a", "a-2"}.__contains__)
    'a-3'
    """
    name, n = wanted, 1
    while taken(name):
        n += 1
        name = f"{wanted}-{n}"
    return name

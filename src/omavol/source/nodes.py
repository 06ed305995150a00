"""What QEMU says of its block nodes, and what follows from it: which node is a disk, and what can be an increment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from omavol.source.machine import SourceDisk
from omavol.source.points import bitmap_of

__all__ = ["Bitmap", "Node", "change_record", "find_disk", "nodes_from"]


class Bitmap(msgspec.Struct, frozen=True, kw_only=True):
    """One dirty bitmap of a node; QEMU's own have no name."""

    recording: bool
    busy: bool
    name: str | None = None
    persistent: bool = False
    inconsistent: bool = False


class _Image(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    filename: str
    virtual_size: int
    format_specific: dict[str, Any] = {}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node of `query-named-block-nodes` (flat)."""

    name: str = msgspec.field(name="node-name")
    driver: str = msgspec.field(name="drv")
    read_only: bool = msgspec.field(name="ro")
    image: _Image
    bitmaps: list[Bitmap] = msgspec.field(name="dirty-bitmaps", default_factory=list)

    @property
    def size(self) -> int:
        return self.image.virtual_size

    @property
    def keeps_bitmaps(self) -> bool:
        """Bitmaps survive in the image: qcow2 since version 3 (compat 1.1)."""
        compat = self.image.format_specific.get("data", {}).get("compat", "")
        return self.driver == "qcow2" and not self.read_only and compat != "0.10"

    def bitmap(self, name: str) -> Bitmap | None:
        return next((bitmap for bitmap in self.bitmaps if bitmap.name == name), None)


def nodes_from(answer: object) -> dict[str, Node]:
    """The nodes in QEMU's answer to query-named-block-nodes, by name."""
    listed = [node for node in answer if node.get("node-name")] if isinstance(answer, list) else []
    for node in listed:
        if node.get("dirty-bitmaps") is None:
            node.pop("dirty-bitmaps", None)
    return {node.name: node for node in msgspec.convert(listed, list[Node])}


def find_disk(nodes: dict[str, Node], disk: SourceDisk) -> Node | None:
    """The node that is this disk: the one named so, else the one of its format over its file."""
    if disk.node is not None:
        return nodes.get(disk.node)
    matches = [
        node
        for node in nodes.values()
        if node.driver == disk.format and not node.name.startswith("oma-") and _same(node.image.filename, disk.file)
    ]
    return matches[0] if len(matches) == 1 else None


def change_record(node: Node, base: str | None) -> tuple[str | None, str]:
    """The bitmap to read for an increment since `base` (None: a full pass), and the reason in words."""
    if base is None:
        return None, "no point to differ from was named"
    name = bitmap_of(base)
    bitmap = node.bitmap(name)
    if bitmap is None:
        kept = "" if node.keeps_bitmaps else f" ({node.driver} keeps one only while the machine runs)"
        return None, f"the disk has no record of changes since {base}{kept}"
    if bitmap.inconsistent:
        return None, f"the record of changes since {base} is inconsistent: the image was not closed properly"
    if not bitmap.recording:
        return None, f"the record of changes since {base} was switched off"
    if bitmap.busy:
        return None, f"the record of changes since {base} is in use by another program"
    return name, f"changes since {base}"


def _same(filename: str, file: Path) -> bool:
    try:
        return Path(filename).resolve() == file.resolve()
    except OSError:
        return False

"""What qemu-img says of an image, and the empty overlay that it makes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec

from omavol.source.errors import ImageBroken, ImageInUse, SourceError

__all__ = ["Image", "check_whole", "create_overlay", "is_lock_refusal", "read_image"]

LIMIT = 30.0


class Image(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """`virtual_size` is the disk's size in bytes as a machine sees it."""

    virtual_size: int
    format: str
    format_specific: dict[str, Any] = {}

    @property
    def keeps_bitmaps(self) -> bool:
        return self.format == "qcow2" and self.format_specific.get("data", {}).get("compat") != "0.10"


def read_image(file: Path, format: str) -> Image:
    """Facts of an image that others may have open. Raises ImageBroken with qemu-img's own words."""
    answer = _run(file, "qemu-img", "info", "--output=json", "-U", "-f", format, "--", str(file))
    try:
        return msgspec.json.decode(answer, type=Image)
    except msgspec.DecodeError as error:
        raise ImageBroken(f"qemu-img does not understand {file}: {error}") from error


def check_whole(file: Path, format: str) -> None:
    """Raises ImageBroken if a qcow2 refers to data past the end of its file: QEMU would read zeroes there.

    Only that: a refcount that a power loss left behind does no harm to a reader. What cannot be checked in time passes.
    """
    if format != "qcow2":
        return
    argv = ("qemu-img", "check", "-U", "-f", format, "--", str(file))
    try:
        found = subprocess.run(argv, capture_output=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return
    if b"exceeding the end of the file" in found.stdout + found.stderr:
        raise ImageBroken(f"{file} is cut short: it refers to data past its end, at {file.stat().st_size} bytes")


def create_overlay(path: Path, size: int) -> None:
    """An empty qcow2 of `size` bytes, for the blocks that a machine overwrites while it is read."""
    path.unlink(missing_ok=True)
    _run(path, "qemu-img", "create", "-q", "-f", "qcow2", "--", str(path), str(size))


def is_lock_refusal(words: str) -> bool:
    """QEMU's words for an image that another process has open for writing."""
    return '" lock' in words


def _run(file: Path, *argv: str) -> bytes:
    try:
        result = subprocess.run(argv, capture_output=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise SourceError(
            f"{argv[0]} is not installed", advice=("Install it (Debian: apt-get install qemu-utils).",)
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ImageBroken(f"{argv[0]} has not answered for {file} in {LIMIT:.0f} s") from error
    if result.returncode:
        words = " ".join(result.stderr.decode(errors="replace").split()).removeprefix("qemu-img: ")
        raise (ImageInUse if is_lock_refusal(words) else ImageBroken)(words or f"{argv[0]} failed on {file}")
    return result.stdout

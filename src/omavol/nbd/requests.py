"""What may be asked of an export, and in which pieces: nothing leaves it, nothing was not advertised (C14 to C17)."""

from __future__ import annotations

from collections.abc import Iterator

from omavol.nbd.errors import NotAllowed, NotOffered
from omavol.nbd.handshake import Export
from omavol.nbd.wire import Command, CommandFlag, TransmissionFlag

__all__ = ["Readable", "Writable", "at_once", "check", "flags_of", "pieces", "view_of"]

Readable = bytes | bytearray | memoryview
Writable = bytearray | memoryview

_PIECE = 1024 * 1024  # bytes of payload that go in one request
_SPAN = 1024 * 1024 * 1024  # bytes of effect of one request without payload, where 32 bits hold the length

# What has to be advertised for a command or a command flag (C14); READ and WRITE always are.
_COMMANDS = {
    Command.FLUSH: TransmissionFlag.SEND_FLUSH,
    Command.TRIM: TransmissionFlag.SEND_TRIM,
    Command.CACHE: TransmissionFlag.SEND_CACHE,
    Command.WRITE_ZEROES: TransmissionFlag.SEND_WRITE_ZEROES,
}
_FLAGS = {
    CommandFlag.FUA: TransmissionFlag.SEND_FUA,
    CommandFlag.DF: TransmissionFlag.SEND_DF,
    CommandFlag.FAST_ZERO: TransmissionFlag.SEND_FAST_ZERO,
}
_CHANGES = (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES)


def view_of(data: Readable) -> memoryview:
    """The bytes of a buffer, whatever its items are."""
    return memoryview(data).cast("B")


def flags_of(
    *, fua: bool = False, no_hole: bool = False, fast: bool = False, df: bool = False, one: bool = False
) -> CommandFlag:
    """The command flags of a method's keywords.

    >>> flags_of(fua=True, fast=True)
    <CommandFlag.FUA|FAST_ZERO: 17>
    """
    flags = CommandFlag(0)
    for wanted, flag in (
        (fua, CommandFlag.FUA),
        (no_hole, CommandFlag.NO_HOLE),
        (df, CommandFlag.DF),
        (one, CommandFlag.REQ_ONE),
        (fast, CommandFlag.FAST_ZERO),
    ):
        if wanted:
            flags |= flag
    return flags


def check(command: Command, offset: int, length: int, flags: CommandFlag, export: Export, place: str) -> None:
    """Raise NotOffered for what the export does not advertise, NotAllowed for what breaks its borders or blocks."""
    needed = _COMMANDS.get(command, TransmissionFlag(0))
    for flag in flags & ~(CommandFlag.NO_HOLE | CommandFlag.REQ_ONE):
        needed |= _FLAGS[flag]
    if missing := needed & ~export.flags:
        raise NotOffered(f"{place}: export {export.name!r} does not offer {missing.name}")
    if command == Command.BLOCK_STATUS and not export.contexts:
        raise NotOffered(f"{place}: no meta context is selected for export {export.name!r}")
    if command in _CHANGES and export.read_only:
        raise NotAllowed(f"{place}: export {export.name!r} is read-only")
    if command == Command.FLUSH:
        return
    if offset < 0 or length <= 0 or offset + length > export.size:
        raise NotAllowed(f"{length} bytes at {offset} are not inside export {export.name!r} of {export.size} bytes")
    if (offset | length) % export.minimum:
        raise NotAllowed(f"{length} bytes at {offset} are no multiple of the block size {export.minimum}")


def at_once(length: int, export: Export) -> int:
    """How much of a range one request without payload can be about: all where headers are extended, else 1 GiB."""
    return length if export.extended else min(length, _SPAN)


def pieces(command: Command, offset: int, length: int, export: Export) -> Iterator[tuple[int, int]]:
    """(offset, length) of the requests that a range takes.

    Payload goes within the maximum (C16), effect without payload within 32 bits, or in one where headers are extended.

    >>> from omavol.nbd.handshake import Export
    >>> disk = Export("", 4096, TransmissionFlag.HAS_FLAGS, structured=True, minimum=512, maximum=1024)
    >>> list(pieces(Command.READ, 512, 2048, disk))
    [(512, 1024), (1536, 1024)]
    """
    with_payload = command in (Command.READ, Command.WRITE)
    most = min(_PIECE, export.maximum) if with_payload else at_once(length, export)
    most = max(most - most % export.minimum, export.minimum)
    for at in range(offset, offset + length, most):
        yield at, min(most, offset + length - at)

"""The transmission flags and block sizes that the server tells, against one another and against what works."""

from __future__ import annotations

from omavol.conformance.facts import Need
from omavol.conformance.numbers import NO_ZEROES, Info, Rep
from omavol.conformance.server import Server
from omavol.conformance.shake import Told
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed
from omavol.nbd.wire import Command, Option
from omavol.nbd.wire import TransmissionFlag as Flag

_FLAGS = "Transmission flags"
_SIZES = "Size constraints"


def _told(server: Server, option: int) -> Told:
    shake = server.shake(server.facts.offered & 3)
    if option == Option.EXPORT_NAME:
        return shake.export_name(server.name, zeroes=not server.facts.offered & NO_ZEROES)
    return shake.info(server.name, Info.BLOCK_SIZE).must(Rep.ACK).told()


def _without_structured(server: Server) -> list[Told]:
    """What is told where neither structured replies nor extended headers were agreed."""
    told = [_told(server, Option.INFO)] if server.facts.info else []
    return [*told, *([_told(server, Option.EXPORT_NAME)] if not told else [])]


@check("H43", Tag.MUST, Group.OFFERS, _FLAGS, "HAS_FLAGS is set")
def has_flags(server: Server) -> None:
    for told in (*_without_structured(server), server.enter().told):
        if not told.flags & Flag.HAS_FLAGS:
            raise Failed("NBD_FLAG_HAS_FLAGS", f"flags {told.flags:#06x}")


@check("H43", Tag.MUST, Group.OFFERS, _FLAGS, "SEND_FLUSH is told, so FLUSH works", Need.FLUSH)
def flush_works(server: Server) -> None:
    server.enter().ask(Command.FLUSH).must("NBD_CMD_FLUSH, which is offered", 0)


@check("H43", Tag.MUST, Group.OFFERS, _FLAGS, "SEND_TRIM is told, so TRIM works", Need.WRITE, Need.TRIM, Need.DATA)
def trim_works(server: Server) -> None:
    reply = server.enter().ask(Command.TRIM, server.scratch, server.scratch_size)
    reply.must("NBD_CMD_TRIM, which is offered", 0)


@check("H44", Tag.MUST, Group.OFFERS, _FLAGS, "SEND_DF is clear without structured replies")
def no_df_without_structured(server: Server) -> None:
    for told in _without_structured(server):
        if told.flags & Flag.SEND_DF:
            raise Failed("no NBD_FLAG_SEND_DF: structured replies were not agreed", f"flags {told.flags:#06x}")


@check("H45", Tag.MUST, Group.OFFERS, _FLAGS, "SEND_FAST_ZERO is clear without SEND_WRITE_ZEROES")
def no_fast_zero_without_zeroes(server: Server) -> None:
    flags = server.facts.flags
    if flags & Flag.SEND_FAST_ZERO and not flags & Flag.SEND_WRITE_ZEROES:
        raise Failed("NBD_FLAG_SEND_WRITE_ZEROES beside NBD_FLAG_SEND_FAST_ZERO", f"flags {flags:#06x}")


@check("H46", Tag.MUST, Group.OFFERS, _SIZES, "The minimum block is a power of two up to 64 KiB", Need.SIZES)
def minimum_block(server: Server) -> None:
    minimum = server.facts.minimum
    if minimum & (minimum - 1) or minimum > 65536:
        raise Failed("a power of two up to 65536", f"{minimum}")


@check("H46", Tag.MUST, Group.OFFERS, _SIZES, "The preferred block is a power of two, ≥ 512 and ≥ minimum", Need.SIZES)
def preferred_block(server: Server) -> None:
    preferred, least = server.facts.preferred, max(server.facts.minimum, 512)
    if preferred & (preferred - 1) or preferred < least:
        raise Failed(f"a power of two from {least} on", f"{preferred}")


@check("H46", Tag.MUST, Group.OFFERS, _SIZES, "The maximum payload is not under the preferred block", Need.SIZES)
def maximum_payload(server: Server) -> None:
    if server.facts.maximum < server.facts.preferred:
        raise Failed(f"{server.facts.preferred} or more", f"{server.facts.maximum}")


@check("H47", Tag.SHOULD, Group.OFFERS, _SIZES, "The maximum payload is 1 MiB or more, if the export is", Need.SIZES)
def maximum_payload_is_ample(server: Server) -> None:
    least = min(server.facts.size, 1 << 20)
    if server.facts.maximum < least:
        raise Failed(f"{least} or more", f"{server.facts.maximum}")


@check("H47", Tag.SHOULD, Group.OFFERS, _SIZES, "The size is a multiple of the minimum block", Need.SIZES)
def size_in_minimum_blocks(server: Server) -> None:
    if server.facts.size % server.facts.minimum:
        raise Failed(f"a multiple of {server.facts.minimum}", f"{server.facts.size}")

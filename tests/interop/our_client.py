"""What our client does in a cell: against a peer's server, or through a peer that is a client of ours and serves on."""

from __future__ import annotations

from disks import HOLE, LARGE, MAP, SIZE, WRITTEN, ZEROED, Disk, digest

from omavol import nbd

TIMEOUT = 30.0


def read(uri: str, disk: Disk) -> None:
    with nbd.connect(uri, timeout=TIMEOUT) as client:
        assert client.size == SIZE
        assert digest(client.read(0, SIZE)) == digest(disk.content)


def write(uri: str, disk: Disk) -> None:
    expected = disk.with_payload()
    with nbd.connect(uri, timeout=TIMEOUT) as client:
        half = WRITTEN[1] // 2
        client.write(WRITTEN[0], disk.payload[:half])
        fua = nbd.TransmissionFlag.SEND_FUA in client.export.flags
        client.write(WRITTEN[0] + half, disk.payload[half:], fua=fua)
        client.flush()
        assert digest(disk.content) == expected
        assert client.read(*WRITTEN) == disk.payload


def trim(uri: str, disk: Disk) -> None:
    """What is trimmed is anything (C20); everything else is what it was."""
    before = disk.content
    with nbd.connect(uri, timeout=TIMEOUT) as client:
        client.trim(*ZEROED)
        client.flush()
        after = client.read(0, SIZE)
    assert after[: ZEROED[0]] == before[: ZEROED[0]] and after[sum(ZEROED) :] == before[sum(ZEROED) :]


def zero(uri: str, disk: Disk) -> None:
    expected = disk.with_zeroes()
    with nbd.connect(uri, timeout=TIMEOUT) as client:
        client.zero(*ZEROED)
        client.flush()
        assert digest(client.read(0, SIZE)) == expected == digest(disk.content)


def status(uri: str, disk: Disk) -> None:
    with nbd.connect(uri, timeout=TIMEOUT) as client:
        told = [(extent.offset, extent.length, extent.status) for extent in client.extents("base:allocation")]
    assert told == MAP, (told, HOLE)


def large(uri: str, disk: Disk) -> None:
    with nbd.connect(uri, timeout=TIMEOUT) as client:
        assert digest(client.read(*LARGE)) == digest(disk.content[LARGE[0] : sum(LARGE)])


def plain(uri: str, disk: Disk) -> None:
    """Without structured replies."""
    with nbd.connect(uri, timeout=TIMEOUT, structured=nbd.Wish.NEVER) as client:
        assert not client.export.structured
        assert digest(client.read(0, SIZE)) == digest(disk.content)


def extended(uri: str, disk: Disk) -> None:
    """With headers of 64 bits, demanded: what is not granted is an error (C27)."""
    with nbd.connect(uri, timeout=TIMEOUT, extended=nbd.Wish.DEMANDED) as client:
        assert digest(client.read(0, SIZE)) == digest(disk.content)
        told = [(extent.offset, extent.length, extent.status) for extent in client.extents("base:allocation")]
    assert told == MAP


def exports(uri: str, disk: Disk) -> None:
    with nbd.negotiate(uri, timeout=TIMEOUT) as session:
        assert len(session.exports()) == 1


DOES = {
    "read": read,
    "write": write,
    "trim": trim,
    "zero": zero,
    "status": status,
    "large": large,
    "plain": plain,
    "extended": extended,
    "list": exports,
}

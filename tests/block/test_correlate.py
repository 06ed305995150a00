"""Which device is which volume: every outcome once, and what holds for any devices and volumes in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omavol.block.correlate import Outcome, Wanted, correlate, known_by
from omavol.block.present import Kind, Present

GIB = 1 << 30
UUID = "b3bb9310-1b59-4f62-97e8-cefffdfe3804"
SERIAL = "b3bb93101b594f6297e8"


def disk(
    name: str, *serials: str, size: int = GIB, kind: Kind = Kind.VIRTIO, built_on: tuple[str, ...] = ()
) -> Present:
    return Present(name, "1:1", kind, size, serials=frozenset(serials), built_on=built_on)


def node(name: str, label: str, uuid: str) -> Present:
    return Present(name, "253:0", Kind.DM, GIB, label=label, uuid=uuid)


@pytest.mark.parametrize(
    "serial",
    [
        SERIAL,
        SERIAL.upper(),
        UUID,
        UUID.replace("-", ""),
        UUID[:20],  # with hyphens, cut by virtio-blk
        f"2-{SERIAL}"[:20],  # some releases put the disk's number in front
        f"12-{SERIAL}"[:20],
        f"3-{UUID}"[:20],
        f"2-{SERIAL}",  # SCSI has room for all of it
        f"12-{UUID}",
    ],
)
def test_a_volume_is_known_by_every_form_of_its_serial(serial):
    assert known_by(serial, UUID)


@pytest.mark.parametrize(
    "serial",
    [
        "",
        SERIAL[:19],
        SERIAL + "0",
        "2-b3bb9310",
        "x-" + SERIAL[:18],
        "b3bb93101b594f6297e9",
        f"2-{SERIAL[:17]}",  # nothing cut it here
        f"2-{SERIAL[:19]}",
        f"123-{UUID}"[:20],  # too little is left of it
    ],
)
def test_nothing_else_is_taken_for_it(serial):
    assert not known_by(serial, UUID)


WANTED = Wanted("volume", UUID, GIB)


@pytest.mark.parametrize(
    ("present", "outcome", "reason"),
    [
        ([disk("vda", "other")], Outcome.WAITING, f"no device has the serial {SERIAL} yet"),
        ([disk("vda", "other"), disk("vdb", SERIAL)], Outcome.MATCHED, "/dev/vdb has its serial"),
        ([disk("sda", UUID, kind=Kind.SCSI)], Outcome.MATCHED, "/dev/sda has its serial"),
        ([disk("vdb", SERIAL), disk("vdc", SERIAL)], Outcome.AMBIGUOUS, "/dev/vdb (1073741824 bytes) and /dev/vdc"),
        ([disk("vdb", SERIAL, size=GIB - 512)], Outcome.WRONG_SIZE, "/dev/vdb has 1073741312 bytes, the volume needs"),
        ([disk("vdb", SERIAL, size=2 * GIB)], Outcome.MATCHED, "/dev/vdb has its serial"),
        ([disk("vdb", SERIAL, built_on=("md0",))], Outcome.IN_USE, "/dev/vdb is in use: device md0"),
        (
            [disk("vdb", SERIAL, built_on=("dm-0",)), node("dm-0", "vg-root", "LVM-x")],
            Outcome.IN_USE,
            "/dev/vdb is in use: device dm-0 (vg-root)",
        ),
        (
            [disk("vdb", SERIAL, built_on=("dm-0",)), node("dm-0", "web01-disk0", "OMA-volume")],
            Outcome.MATCHED,
            "/dev/vdb has its serial",
        ),
        (
            [disk("vdb", SERIAL, built_on=("dm-0",)), node("dm-0", "web02-disk0", "OMA-other")],
            Outcome.IN_USE,
            "/dev/vdb is in use: device dm-0 (web02-disk0)",
        ),
    ],
)
def test_every_outcome(present, outcome, reason):
    verdict = correlate([WANTED], present)["volume"]
    assert verdict.outcome is outcome
    assert reason in verdict.reason


def test_who_mounts_it_is_said():
    verdict = correlate([WANTED], [disk("vdb", SERIAL)], {"vdb": ["mounted at /srv"]})["volume"]
    assert (verdict.outcome, verdict.reason) == (Outcome.IN_USE, "/dev/vdb is in use: mounted at /srv")


def test_a_device_that_fits_two_volumes_is_neithers():
    """Twenty characters of two ids may be the same: 80 bits, so it is an error to be told, not a tie to be broken."""
    twin = UUID[:24] + "000000000000"
    verdicts = correlate([WANTED, Wanted("twin", twin, GIB)], [disk("vdb", SERIAL)])
    assert {each.outcome for each in verdicts.values()} == {Outcome.AMBIGUOUS}
    assert "volume twin as well" in verdicts["volume"].reason


# --- whatever comes ---------------------------------------------------------------------------------------------

ids = st.uuids(version=4).map(str)


def other(digit: str) -> str:
    return "0" if digit != "0" else "1"


LOOK_ALIKES = (  # of a volume's 32 digits: serials that begin or end like its own, and are not
    lambda plain: plain[:12] + other(plain[12]) + plain[13:20],
    lambda plain: plain[:19] + other(plain[19]),
    lambda plain: other(plain[0]) + plain[1:20],
    lambda plain: plain[:19],
    lambda plain: plain[:21],
    lambda plain: plain[:31] + other(plain[31]),
    lambda plain: f"2-{plain[:17]}",
    lambda plain: f"2-{plain[:17]}{other(plain[17])}",
    lambda plain: f"2-{plain[:19]}",
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Wanted], list[Present], dict[str, str]]:
    """Volumes, of which some have their device, among devices that look alike; and which device is whose."""
    wanted = [
        Wanted(f"volume{number}", uuid, draw(st.sampled_from([GIB, 2 * GIB])))
        for number, uuid in enumerate(draw(st.lists(ids, min_size=1, max_size=8, unique=True)))
    ]
    here = [each for each in wanted if draw(st.booleans())]
    forms = st.sampled_from([lambda u: u.replace("-", "")[:20], lambda u: u, lambda u: f"4-{u.replace('-', '')}"[:20]])
    right = {each.volume_id: f"vd{chr(98 + number)}" for number, each in enumerate(here)}
    devices = [
        disk(right[each.volume_id], draw(forms)(each.uuid), size=each.size + draw(st.sampled_from([0, GIB])))
        for each in here
    ]
    for number in range(draw(st.integers(0, 6))):
        uuid = draw(st.sampled_from(wanted)).uuid
        like = draw(st.sampled_from(LOOK_ALIKES))(uuid.replace("-", ""))
        devices.append(disk(f"sd{chr(97 + number)}", like, size=draw(st.sampled_from([GIB, 2 * GIB]))))
    return wanted, draw(st.permutations(devices)), right


@given(worlds())
def test_each_volume_gets_its_device_or_none(world):
    wanted, devices, right = world
    for volume_id, verdict in correlate(wanted, devices).items():
        if volume_id in right:
            assert verdict.outcome is Outcome.MATCHED
            assert verdict.device is not None and verdict.device.name == right[volume_id]
        else:
            assert verdict.outcome is Outcome.WAITING


@given(worlds(), st.randoms(use_true_random=False))
def test_no_order_matters(world, luck):
    wanted, devices, _ = world
    before = correlate(wanted, devices)
    luck.shuffle(wanted)
    luck.shuffle(devices)
    assert correlate(wanted, devices) == before


@given(worlds(), st.data())
def test_devices_that_come_one_by_one_end_in_the_same(world, data):
    """Whatever was matched on the way was right: a later device makes it doubtful at most, never another."""
    wanted, devices, _ = world
    end = correlate(wanted, devices)
    so_far: list[Present] = []
    for device in data.draw(st.permutations(devices)):
        so_far.append(device)
        for volume_id, verdict in correlate(wanted, so_far).items():
            if verdict.outcome is Outcome.MATCHED:
                assert verdict.device == end[volume_id].device
    assert correlate(wanted, so_far) == end


@given(worlds(), st.data())
def test_a_second_device_with_the_same_serial_makes_it_doubtful(world, data):
    wanted, devices, right = world
    if not right:
        return
    volume_id = data.draw(st.sampled_from(sorted(right)))
    original = next(device for device in devices if device.name == right[volume_id])
    copy = disk("vdz", *original.serials, size=original.size)
    assert correlate(wanted, [*devices, copy])[volume_id].outcome is Outcome.AMBIGUOUS

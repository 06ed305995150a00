"""Change tracking (NBD.md, D9): what changed since a point is told, kept over a clean stop, and never too little."""

import itertools
import json
import os
import random
import subprocess
import threading
from pathlib import Path

import pytest
from benchmarks.servers import OMAVOL

from omavol.nbd.client import connect
from omavol.nbd.uri import parse
from omavol.nbd.wire import Command
from omavol.serve.client import ControlClient
from omavol.serve.errors import ControlFailed, ExportRefused
from omavol.serve.limits import Limits
from omavol.serve.listeners import listen_unix
from omavol.serve.table import ExportTable
from omavol.serve.tracking import CONTEXT, GRAIN, TrackingUnusable
from raw_client import Raw, until

SIZE = 4 << 20
GRAINS = SIZE // GRAIN
EVERYTHING = set(range(GRAINS))


@pytest.fixture
def tracked(place, image):
    """A function that serves the image with a tracking file, again after `stop` if asked again."""
    running = []

    def start(path=image, file=place / "points"):
        table = ExportTable(Limits())
        running.append(table)
        table.add_path("", str(path), read_only=False, track=str(file))
        table.listen(listen_unix(str(place / f"s{len(running)}")))
        table.start()
        return table

    yield start
    for table in running:
        table.stop()


def where(table):
    return table.listeners[0].uri.socket


def changed(uri, point):
    """The grains that changed since a point, as a reader is told."""
    context = CONTEXT + point
    with connect(parse(str(uri)), contexts=(context,)) as client:
        assert context in client.export.contexts
        extents = list(client.extents(context))
    assert sum(length for _, length, _ in extents) == SIZE
    assert all(one[2] != two[2] for one, two in itertools.pairwise(extents))
    return {
        grain for at, length, status in extents if status & 1 for grain in range(at // GRAIN, (at + length) // GRAIN)
    }


def since(table, point):
    return changed(table.listeners[0].uri, point)


def test_d9_a_point_tells_what_was_written_trimmed_and_zeroed_behind_it(tracked):
    table = tracked()
    with Raw(where(table)) as client:
        assert client.ask(Command.WRITE, 0, 512, b"a" * 512) == 0
        table.add_point("", "one")
        assert since(table, "one") == set()
        assert client.ask(Command.WRITE, 2 * GRAIN - 1, 2, b"bb") == 0
        assert client.ask(Command.TRIM, 8 * GRAIN, GRAIN) == 0
        assert client.ask(Command.WRITE_ZEROES, 20 * GRAIN + 5, 10) == 0
        assert client.ask(Command.WRITE, 30 * GRAIN, 8 * GRAIN, b"c" * 8 * GRAIN) == 0  # large: it is spliced
        assert client.ask(Command.READ, 50 * GRAIN, 512) == 0
    assert since(table, "one") == {1, 2, 8, 20, *range(30, 38)}


def test_d9_each_point_has_its_own_answer_and_dropping_one_changes_no_other(tracked):
    table = tracked()
    with Raw(where(table)) as client:
        for number, point in enumerate(("a", "b", "c", "d")):
            assert table.add_point("", point).points[-1] == point
            assert client.ask(Command.WRITE, number * GRAIN, 1, b"x") == 0
    answers = {"a": {0, 1, 2, 3}, "b": {1, 2, 3}, "c": {2, 3}, "d": {3}}
    assert {point: since(table, point) for point in answers} == answers
    for gone in ("b", "d", "a"):
        table.drop_point("", gone)
        del answers[gone]
        assert {point: since(table, point) for point in answers} == answers
    assert table.list()[0].points == ["c"]


def test_d9_points_are_listed_beside_base_allocation_and_one_that_is_dropped_while_in_use_says_all(tracked):
    table = tracked()
    table.add_point("", "one")
    with connect(parse(str(table.listeners[0].uri)), contexts=(CONTEXT + "one",)) as client:
        table.drop_point("", "one")
        assert [status for _, _, status in client.extents(CONTEXT + "one")] == [1]
    with connect(parse(str(table.listeners[0].uri)), contexts=("base:allocation", CONTEXT + "one")) as client:
        assert list(client.export.contexts) == ["base:allocation"]


def test_d9_a_clean_stop_keeps_every_answer(tracked):
    table = tracked()
    table.add_point("", "one")
    with Raw(where(table)) as client:
        assert client.ask(Command.WRITE, 5 * GRAIN, 1, b"x") == 0
        table.add_point("", "two")
        assert client.ask(Command.WRITE, 9 * GRAIN, 1, b"x") == 0
    assert table.stop() == 0
    again = tracked()
    assert again.list()[0].points == ["one", "two"]
    assert (since(again, "one"), since(again, "two")) == ({5, 9}, {9})
    with Raw(where(again)) as client:
        assert client.ask(Command.WRITE, 11 * GRAIN, 1, b"x") == 0
    assert (since(again, "one"), since(again, "two")) == ({5, 9, 11}, {9, 11})


def test_d9_what_somebody_else_wrote_meanwhile_makes_everything_changed(tracked, image):
    table = tracked()
    table.add_point("", "one")
    assert table.stop() == 0
    with image.open("r+b") as file:
        file.write(b"behind our back")
    assert since(tracked(), "one") == EVERYTHING


def test_d9_another_disk_of_the_size_makes_everything_changed(tracked, image, place):
    table = tracked()
    table.add_point("", "one")
    assert table.stop() == 0
    other = place / "other"
    other.write_bytes(image.read_bytes())
    times = image.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert since(tracked(other), "one") == EVERYTHING


@pytest.mark.parametrize(("same", "answer"), [(False, EVERYTHING), (True, {7})])
def test_d9_a_retarget_changes_everything_unless_the_caller_knows_better(tracked, image, place, same, answer):
    table = tracked()
    table.add_point("", "one")
    with Raw(where(table)) as client:
        assert client.ask(Command.WRITE, 7 * GRAIN, 1, b"x") == 0
    other = place / "other"
    other.write_bytes(image.read_bytes())
    table.retarget("", os.open(other, os.O_RDWR), SIZE, same_content=same)
    assert since(table, "one") == answer
    assert table.stop() == 0
    assert since(tracked(other), "one") == answer


def test_points_without_a_file_last_as_long_as_the_server(served):
    served.table.add_point("", "one")
    with served.client() as client:
        assert client.ask(Command.WRITE, 0, 1, b"x") == 0
    assert changed(served.uri, "one") == {0}


def test_points_are_refused_with_a_code(tracked, place):
    def refused(call, *arguments):
        with pytest.raises(ExportRefused) as caught:
            call(*arguments)
        return caught.value.code

    table = tracked()
    table.add_point("", "one")
    assert refused(table.add_point, "", "one") == "point_exists"
    assert refused(table.add_point, "", "a:b") == "bad_point"
    assert refused(table.add_point, "nobody", "one") == "unknown_export"
    assert refused(table.drop_point, "", "two") == "unknown_point"
    for number in range(15):
        table.add_point("", f"p{number}")
    assert refused(table.add_point, "", "more") == "too_many_points"
    assert len(table.list()[0].points) == 16
    assert not (place / "points.new").exists()


def test_a_file_that_keeps_something_else_or_is_in_use_is_refused(tracked, place):
    tracked()
    with pytest.raises(TrackingUnusable, match="another server"):
        tracked()
    foreign = place / "foreign"
    foreign.write_bytes(b"something else altogether")
    with pytest.raises(TrackingUnusable, match="no changes"):
        tracked(file=foreign)
    assert foreign.read_bytes() == b"something else altogether"


def test_d9_a_full_copy_and_its_increments_are_the_disk_whatever_is_written_meanwhile(tracked, image):
    """Writers never stop while points are taken; what is behind the last point comes with the last increment."""
    table = tracked()
    table.add_point("", "p0")
    copy = bytearray(image.read_bytes())
    over = threading.Event()

    def write(seed):
        chance = random.Random(seed)
        with Raw(where(table)) as client:
            while not over.is_set():
                at, length = chance.randrange(SIZE), chance.choice((1, 512, 5000, 200_000))
                length = min(length, SIZE - at)
                kind = chance.choice((Command.WRITE, Command.WRITE, Command.WRITE_ZEROES))
                assert client.ask(kind, at, length, chance.randbytes(length) if kind == Command.WRITE else b"") == 0
                if chance.random() < 0.05:
                    assert client.ask(Command.FLUSH) == 0

    def increment(point):
        with image.open("rb") as file:
            for grain in changed(table.listeners[0].uri, point):
                file.seek(grain * GRAIN)
                copy[grain * GRAIN : (grain + 1) * GRAIN] = file.read(GRAIN)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    try:
        for number in range(6):
            table.add_point("", f"p{number + 1}")
            increment(f"p{number}")
            table.drop_point("", f"p{number}")
    finally:
        over.set()
        for writer in writers:
            writer.join(20)
    increment("p6")
    assert bytes(copy) == image.read_bytes()


KILLED_AT = [
    "serve.write-done",
    "serve.tracking-opened:2",
    "serve.tracking-closing",
    "serve.tracking-closed",
    "serve.point-unnamed",
    "serve.point-taken",
]


@pytest.mark.parametrize("name", KILLED_AT)
def test_d9_a_crash_anywhere_forgets_no_change(command, place, image, monkeypatch, name):
    """After it each point that is still known tells at least what differs from the disk as it was at the point."""
    first = command("--unix", place / "s0", "--control", place / "c", "--track", place / "points", image)
    with ControlClient(place / "c") as control:
        control.add_point("", "base")
    assert first.stop() == 0
    before = image.read_bytes()
    log = place / "reached"
    monkeypatch.setenv("OMA_FAILPOINT", name)
    monkeypatch.setenv("OMA_FAILPOINT_LOG", str(log))
    server = command("--unix", place / "s1", "--control", place / "c", "--track", place / "points", image)
    try:
        with Raw(place / "s1") as client, ControlClient(place / "c") as control:
            for number in range(4):
                client.ask(Command.WRITE, (3 + number) * GRAIN, 512, b"w" * 512)
                client.ask(Command.FLUSH)
            control.add_point("", "later")
    except (OSError, ControlFailed):
        pass
    assert server.process.wait(20) == -9
    assert log.read_text().splitlines() == [name.partition(":")[0]]
    monkeypatch.delenv("OMA_FAILPOINT")
    again = command("--unix", place / "s2", "--control", place / "c", "--track", place / "points", image)
    after = image.read_bytes()
    differ = {at // GRAIN for at in range(0, SIZE, 512) if before[at : at + 512] != after[at : at + 512]}
    assert differ <= changed(again.uris[0], "base")
    assert again.stop() == 0


def test_d9_after_an_unclean_stop_every_point_says_all_but_what_a_flush_put_down_counts(command, place, image):
    arguments = ("--control", place / "c", "--track", place / "points", image)
    for number, flushed, answer in ((0, False, EVERYTHING), (1, True, {4})):
        (place / "points").unlink(missing_ok=True)
        server = command("--unix", place / f"s{number}", *arguments)
        with Raw(place / f"s{number}") as client, ControlClient(place / "c") as control:
            control.add_point("", "base")
            assert client.ask(Command.WRITE, 4 * GRAIN, 512, b"w" * 512) == 0
            if flushed:
                assert client.ask(Command.FLUSH) == 0
            server.process.kill()
            server.process.wait(20)
        again = command("--unix", place / f"t{number}", *arguments)
        assert changed(again.uris[0], "base") == answer
        assert again.stop() == 0


def test_libnbd_reads_the_context(tracked):
    table = tracked()
    table.add_point("", "one")
    with Raw(where(table)) as client:
        assert client.ask(Command.WRITE, 3 * GRAIN, 1, b"x") == 0
    uri = str(table.listeners[0].uri)
    shown = subprocess.run(
        ["nbdinfo", f"--map={CONTEXT}one", uri], capture_output=True, text=True, timeout=60, check=True
    )
    rows = [tuple(map(int, line.split()[:3])) for line in shown.stdout.splitlines()]
    assert rows == [(0, 3 * GRAIN, 0), (3 * GRAIN, GRAIN, 1), (4 * GRAIN, SIZE - 4 * GRAIN, 0)]


def test_the_file_is_small_and_only_its_owner_reads_it(tracked, place):
    tracked().add_point("", "one")
    facts = Path(place / "points").stat()
    assert facts.st_mode & 0o777 == 0o600
    assert facts.st_size == 8192 + 4096


def test_omavol_copies_and_maps_what_changed(command, place, image):
    """The tools as an operator uses them: a full copy, later an increment on top of it."""

    def omavol(*arguments):
        return subprocess.run(
            [OMAVOL, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=True
        ).stdout

    uri = command("--unix", place / "s", "--control", place / "c", "--track", place / "points", image).uris[0]
    with ControlClient(place / "c") as control, Raw(place / "s") as client:
        control.add_point("", "monday")
        omavol("copy", uri, place / "copy")
        for grain in (3, 4, 60):
            assert client.ask(Command.WRITE, grain * GRAIN + 7, 9, b"increment") == 0
    shown = omavol("map", "--context", f"{CONTEXT}monday", uri)
    assert [line.split()[2:] for line in shown.splitlines()] == [["0", "unchanged"], ["1", "changed"]] * 2 + [
        ["0", "unchanged"]
    ]
    told = json.loads(omavol("copy", "--json", "--verify", "--changed-since", "monday", uri, place / "copy"))
    assert told["bytes_read"] == 3 * GRAIN
    assert (place / "copy").read_bytes() == image.read_bytes()


def test_a_copy_of_what_changed_since_nobody_knows_when_is_refused_in_a_line(served, place, image):
    for source, words in ((served.uri, "no context"), (image, "does not know")):
        ended = subprocess.run(
            [OMAVOL, "copy", "--changed-since", "monday", str(source), place / "copy"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 1 and words in ended.stderr and ended.stderr.count("\n") == 1


def test_d9_a_write_that_waits_in_a_filter_when_a_point_is_taken_is_a_change_since_it(tracked):
    """It is done behind the point, though it came before: its mark belongs to the younger layer."""
    table = tracked()
    table.add_point("", "one")
    table.set_filters("", ["pause"])
    with Raw(where(table)) as client:
        client.send(Command.WRITE, 3 * GRAIN, 512, b"w" * 512)
        until(lambda: table.list()[0].changes == 1)
        table.add_point("", "two")
        table.set_filters("", [])
        assert client.reply()[0].error == 0
        assert client.ask(Command.FLUSH) == 0
    assert since(table, "two") == {3}

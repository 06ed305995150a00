"""The journal keeps every whole record through any crash, and refuses what a crash cannot have made."""

from __future__ import annotations

import doctest
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omavol import journal
from omavol.journal import Journal, JournalDamaged, JournalTooNew, encode

VERSIONS = {1: 1, 2: 3}
PAYLOADS = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


def opened(path: Path, versions: dict[int, int] = VERSIONS) -> Journal:
    return Journal(path, tag="test", versions=versions)


def written(path: Path, payloads: list[bytes]) -> bytes:
    with opened(path) as file:
        for payload in payloads:
            file.append(1, payload)
    return path.read_bytes()


def found(path: Path) -> list[bytes]:
    with opened(path) as file:
        return [record.payload for record in file.records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.journal"


def test_the_example_in_its_documentation_is_true():
    assert doctest.testmod(journal).failed == 0


def test_records_come_back_in_order_with_their_kind_and_version(path):
    with opened(path) as file:
        file.append(1, b"one", durable=True)
        file.append(2, b"two")
    with opened(path) as file:
        assert [tuple(record) for record in file.records] == [(1, 1, b"one"), (2, 3, b"two")]


@settings(max_examples=40, deadline=None)
@given(payloads=PAYLOADS, data=st.data())
def test_a_tail_torn_anywhere_loses_only_the_record_it_tore(tmp_path_factory, payloads, data):
    path = tmp_path_factory.mktemp("torn") / "state.journal"
    whole = written(path, payloads)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    end = len(whole) - sum(len(encode(1, 1, payload)) for payload in payloads)
    kept = 0
    while kept < len(payloads) and (end := end + len(encode(1, 1, payloads[kept]))) <= cut:
        kept += 1
    with opened(path) as file:
        assert [record.payload for record in file.records] == payloads[:kept]
        file.append(1, b"after")
    assert found(path) == [*payloads[:kept], b"after"]


@settings(max_examples=40, deadline=None)
@given(payloads=PAYLOADS, junk=st.binary(min_size=1, max_size=40))
def test_junk_behind_the_last_record_is_cut_off(tmp_path_factory, payloads, junk):
    path = tmp_path_factory.mktemp("junk") / "state.journal"
    path.write_bytes(written(path, payloads) + junk)
    assert found(path) == payloads


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_before_a_good_record_is_damage_and_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "state.journal"
    whole = bytearray(written(path, [b"first", b"second"]))
    first = len(whole) - len(encode(1, 1, b"first")) - len(encode(1, 1, b"second"))
    position = data.draw(st.integers(first, first + len(encode(1, 1, b"first")) - 1))
    whole[position] ^= 0x40
    path.write_bytes(whole)
    with pytest.raises(JournalDamaged, match="damaged"):
        opened(path)
    assert path.read_bytes() == whole


def test_a_newer_record_is_refused_and_kept(path):
    with opened(path, {1: 1, 2: 4}) as file:
        file.append(2, b"from the future")
    before = path.read_bytes()
    with pytest.raises(JournalTooNew, match="kind 2, version 4"):
        opened(path)
    assert path.read_bytes() == before


def test_an_unknown_kind_is_refused(path):
    with opened(path, {7: 1}) as file:
        file.append(7, b"what is this")
    with pytest.raises(JournalTooNew):
        opened(path)


def test_a_newer_format_is_refused(path):
    content = bytearray(written(path, [b"x"]))
    content[5] = 9
    path.write_bytes(content)
    with pytest.raises(JournalTooNew, match="version 9"):
        opened(path)


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"OMAJ\0\1\0\5other", b"O" * 64])
def test_another_file_is_refused_and_kept(path, content):
    path.write_bytes(content)
    with pytest.raises(JournalDamaged):
        opened(path)
    assert path.read_bytes() == content


def test_compaction_replaces_everything_and_appending_goes_on(path):
    with opened(path) as file:
        for number in range(50):
            file.append(1, str(number).encode())
        before = file.size
        file.compact([(1, b"kept"), (2, b"too")])
        assert file.size < before
        file.append(1, b"more", durable=True)
    assert found(path) == [b"kept", b"too", b"more"]


def test_a_replacement_left_by_a_crash_is_ignored(path):
    written(path, [b"truth"])
    leftover = path.with_name(path.name + ".new")
    leftover.write_bytes(b"half a compaction")
    assert found(path) == [b"truth"]
    assert not leftover.exists()


def test_an_append_that_the_disk_refuses_leaves_no_half_record(path):
    with opened(path) as file:
        file.append(1, b"before")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.size + 40, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                file.append(1, bytes(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        file.append(1, b"after")
    assert found(path) == [b"before", b"after"]

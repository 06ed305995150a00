"""device-mapper: seen as it is, without touching what is not there."""

from __future__ import annotations

from pathlib import Path

from omavol.block import dm


def test_a_kernel_without_it_is_told_and_nothing_is_created(tmp_path):
    misc = tmp_path / "misc"
    misc.write_text("237 loop-control\n229 fuse\n")
    there_before = Path("/dev/mapper").exists()
    found = dm.look(misc)
    assert not found.present
    assert found.driver is None
    assert "no device-mapper" in found.reason
    assert found.library
    assert Path("/dev/mapper").exists() == there_before


def test_a_list_that_cannot_be_read_is_a_reason(tmp_path):
    assert "cannot be read" in dm.look(tmp_path / "none").reason


def test_this_kernel_is_seen_as_proc_misc_shows_it(capfd):
    listed = any(line.split()[1:] == ["device-mapper"] for line in Path("/proc/misc").read_text().splitlines())
    found = dm.look()
    assert found.present <= listed
    assert found.present or found.reason
    assert capfd.readouterr() == ("", "")

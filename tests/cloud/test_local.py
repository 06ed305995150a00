"""The local provider: files, exactly once, and clean errors. A second provider runs under the same laws."""

from __future__ import annotations

import os
import subprocess

import pytest

from omavol.cloud import PROVIDERS, provider_for
from omavol.cloud.local import LocalProvider
from omavol.cloud.volumes import CloudError, NoSpace, NoSuchVolume, NotAttachable, ProviderMisconfigured, capacity_for
from omavol.schema.volumes import Provider

GIB = 1 << 30
ID = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
HERE = "appliance"


@pytest.fixture
def provider(tmp_path):
    return provider_for(Provider(kind="local", appliance_vm_id=HERE), tmp_path)


@pytest.mark.parametrize(("size", "capacity"), [(1, GIB), (GIB - 1, GIB), (GIB, GIB), (GIB + 1, 2 * GIB)])
def test_capacity_is_the_size_rounded_up_to_whole_gibibytes(provider, size, capacity):
    assert provider.create(ID, "v", size, {}) == capacity == capacity_for(size)
    assert provider.describe(ID).capacity == capacity


def test_a_new_volume_is_sparse_and_reads_as_zero(provider, tmp_path):
    provider.create(ID, "v", 5 * GIB, {})
    file = tmp_path / "volumes" / f"{ID}.raw"
    assert file.stat().st_blocks == 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_call_may_be_made_again(provider):
    for _ in range(2):
        assert provider.create(ID, "v", 1, {}) == GIB
    for _ in range(2):
        assert provider.attach(ID, HERE).attached_to == HERE
    for _ in range(2):
        provider.detach(ID)
    for _ in range(2):
        provider.delete(ID)
    assert provider.describe(ID) is None


def test_making_it_again_keeps_what_it_holds(provider, tmp_path):
    provider.create(ID, "v", 1, {})
    file = tmp_path / "volumes" / f"{ID}.raw"
    with file.open("r+b") as volume:
        volume.write(b"data")
    provider.create(ID, "v", 1, {})
    with file.open("rb") as volume:
        assert volume.read(4) == b"data"


def test_a_half_made_volume_of_a_crash_is_made_anew(provider, tmp_path):
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / f"{ID}.part").write_bytes(b"torn")
    assert provider.describe(ID) is None
    provider.create(ID, "v", 1, {})
    assert [path.name for path in (tmp_path / "volumes").iterdir()] == [f"{ID}.raw"]


def test_a_path_is_told_only_while_it_is_attached(provider):
    provider.create(ID, "v", 1, {})
    assert provider.describe(ID).path is None
    assert provider.attach(ID, HERE).path.endswith(f"{ID}.raw")
    provider.detach(ID)
    assert provider.describe(ID).path is None


def test_only_the_appliance_itself_can_have_a_volume(provider):
    provider.create(ID, "v", 1, {})
    with pytest.raises(NotAttachable, match="no machine 'another'"):
        provider.attach(ID, "another")


def test_a_volume_that_another_appliance_has_is_not_taken(provider, tmp_path):
    provider.create(ID, "v", 1, {})
    LocalProvider(tmp_path / "volumes", "another").attach(ID, "another")
    with pytest.raises(NotAttachable, match="another"):
        provider.attach(ID, HERE)
    with pytest.raises(NotAttachable):
        provider.delete(ID)


def test_a_volume_that_is_not_there_cannot_be_attached(provider):
    with pytest.raises(NoSuchVolume):
        provider.attach(ID, HERE)


@pytest.mark.parametrize("kind", ["symlink", "folder", "linked twice"])
def test_what_is_no_file_of_this_appliance_is_refused(provider, tmp_path, kind):
    folder = tmp_path / "volumes"
    folder.mkdir()
    file = folder / f"{ID}.raw"
    (tmp_path / "precious").write_bytes(b"x")
    if kind == "symlink":
        file.symlink_to(tmp_path / "precious")
    elif kind == "folder":
        file.mkdir()
    else:
        os.link(tmp_path / "precious", file)
    with pytest.raises(NotAttachable, match="not a file of this appliance"):
        provider.attach(ID, HERE)


@pytest.mark.parametrize("name", ["../x", "", "a/b", ID.upper(), f"{ID}\n"])
def test_only_a_volume_id_becomes_a_path(provider, name):
    with pytest.raises(CloudError, match="not a volume id"):
        provider.describe(name)


def test_a_size_that_no_file_can_have_is_a_clean_error_and_leaves_nothing(provider, tmp_path):
    with pytest.raises(CloudError, match="cannot be made"):
        provider.create(ID, "v", 2**62, {})
    assert list((tmp_path / "volumes").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system that is full takes root")
def test_a_full_file_system_is_a_clean_error_and_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=3", "tmpfs", small], check=True)
    try:
        provider = LocalProvider(small / "volumes", HERE)
        provider.create(ID, "v", 1, {})
        with pytest.raises(NoSpace) as caught:
            provider.create(ID.replace("0190", "0191"), "v", 1, {})
        assert caught.value.status == 507
        assert caught.value.advice
        with pytest.raises(NoSpace):
            provider.attach(ID, HERE)
        assert [path.name for path in (small / "volumes").iterdir()] == [f"{ID}.raw"]
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(
    "row",
    [
        Provider(kind="moon", appliance_vm_id="a"),
        Provider(kind="local", appliance_vm_id="a", settings={"path": "/"}),
    ],
)
def test_a_provider_that_cannot_be_used_is_refused_and_says_why(row, tmp_path):
    with pytest.raises(ProviderMisconfigured):
        provider_for(row, tmp_path)
    assert "local" in PROVIDERS

"""`omavol copy` with real peers, both directions: the bytes arrive, holes stay holes, odd sizes are sizes."""

from __future__ import annotations

import pytest
from copy_data import GIB, KIB, MIB, allocated, content, make

PEERS = ("nbdkit", "qemu-nbd", "nbd-server", "omavol")


@pytest.fixture
def sparse(tmp_path):
    """Data at both ends and in the middle of 16 MiB."""
    pieces = {0: content(300 * KIB), 5 * MIB + 512: content(2 * MIB, 7), 16 * MIB - 4096: content(4096, 9)}
    return make(tmp_path / "sparse", 16 * MIB, pieces)


def empty_like(path, name):
    return make(path.with_name(name), path.stat().st_size, {})


@pytest.mark.parametrize("peer", PEERS)
def test_upload_arrives(peer, sparse, serve, copy):
    there = empty_like(sparse, "there")
    said = copy(sparse, serve(peer, there))
    assert (said["exit"], said["lines"], said["flushed"]) == (0, [], True)
    assert there.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize("peer", PEERS)
def test_upload_verifies(peer, sparse, serve, copy):
    there = empty_like(sparse, "there")
    said = copy(sparse, serve(peer, there), "--verify")
    assert (said["exit"], said["lines"], said["verified"]) == (0, [], True)
    assert there.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize("peer", PEERS)
def test_download_arrives_and_stays_sparse(peer, sparse, serve, copy, tmp_path):
    said = copy(serve(peer, sparse), tmp_path / "here")
    assert (said["exit"], said["lines"]) == (0, [])
    assert (tmp_path / "here").read_bytes() == sparse.read_bytes()
    assert allocated(tmp_path / "here") <= 5 * MIB


@pytest.mark.parametrize("peer", PEERS)
def test_upload_keeps_holes(peer, sparse, serve, copy):
    """Where the peer can be told of zeroes; nbd-server is not, so it is sent them."""
    there = make(sparse.with_name("there"), 16 * MIB, {0: content(16 * MIB, 3)})
    said = copy(sparse, serve(peer, there))
    assert said["exit"] == 0
    assert there.read_bytes() == sparse.read_bytes()
    if peer != "nbd-server":
        assert said["bytes_sent"] < 4 * MIB
        assert allocated(there) < 8 * MIB


@pytest.mark.parametrize("source", PEERS)
def test_export_to_export(source, sparse, serve, copy):
    there = empty_like(sparse, "there")
    target = "nbdkit" if source != "nbdkit" else "omavol"
    said = copy(serve(source, sparse), serve(target, there))
    assert (said["exit"], said["lines"], said["flushed"]) == (0, [], True)
    assert there.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize("size", [1, 511, 513, MIB - 1, MIB + 1, 3 * MIB + 512 * 7 + 1])
def test_odd_sizes_go_both_ways(size, serve, copy, tmp_path):
    source = make(tmp_path / "source", size, {0: content(size)})
    there = empty_like(source, "there")
    uri = serve("nbdkit", there)
    assert copy(source, uri, "--verify")["exit"] == 0
    assert there.read_bytes() == source.read_bytes()
    assert copy(uri, tmp_path / "here", "--verify")["exit"] == 0
    assert (tmp_path / "here").read_bytes() == source.read_bytes()


def test_an_odd_size_is_padded_to_the_block_of_the_destination(start, copy, tmp_path):
    source = make(tmp_path / "source", 1 * MIB + 100, {0: content(1 * MIB + 100)})
    there = make(tmp_path / "there", 2 * MIB, {0: content(2 * MIB, 5)})
    policy = ("--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-error-policy=error")
    uri = start("nbdkit", "-f", "-U", "SOCK", *policy[:1], "file", there, *policy[1:])
    assert copy(source, uri, "--verify")["exit"] == 0
    after = there.read_bytes()
    assert after[: MIB + 100] == source.read_bytes()
    assert after[MIB + 4096 :] == content(2 * MIB, 5)[MIB + 4096 :]


@pytest.mark.parametrize("most", [4096, 65536])
def test_the_largest_request_of_a_peer_is_kept(most, start, copy, sparse):
    there = empty_like(sparse, "there")
    policy = (f"blocksize-maximum={most}", "blocksize-preferred=4096", "blocksize-error-policy=error")
    uri = start("nbdkit", "-f", "-U", "SOCK", "--filter=blocksize-policy", "file", there, *policy)
    assert copy(sparse, uri, "--verify")["exit"] == 0
    assert there.read_bytes() == sparse.read_bytes()


def test_a_disk_larger_than_4_gib_is_copied_in_seconds(serve, copy, tmp_path):
    size = 5 * GIB + 512
    source = make(tmp_path / "source", size, {4 * GIB - 4096: content(8192), size - 512: content(512)})
    there = empty_like(source, "there")
    assert copy(source, serve("nbdkit", there), "--verify")["exit"] == 0
    with there.open("rb") as file:
        file.seek(4 * GIB - 4096)
        assert file.read(8192) == content(8192)
        file.seek(size - 512)
        assert file.read() == content(512)
    assert allocated(there) < MIB


def test_null_takes_everything(serve, copy, sparse):
    said = copy(serve("qemu-nbd", sparse), "null:")
    assert said["exit"] == 0
    assert said["bytes_read"] >= 2 * MIB


@pytest.mark.parametrize("options", [(), ("--verify",), ("--allocated",)])
def test_file_to_file(options, copy, sparse, tmp_path):
    said = copy(sparse, tmp_path / "there", *options)
    assert (said["exit"], said["lines"], said["flushed"]) == (0, [], True)
    assert (tmp_path / "there").read_bytes() == sparse.read_bytes()
    assert (allocated(tmp_path / "there") < 8 * MIB) == ("--allocated" not in options)


@pytest.mark.parametrize("before", [0, 4 * KIB, 32 * MIB])
def test_a_file_becomes_as_long_as_the_source(before, serve, copy, sparse, tmp_path):
    there = make(tmp_path / "there", before, {0: content(before)})
    assert copy(serve("nbdkit", sparse), there)["exit"] == 0
    assert there.read_bytes() == sparse.read_bytes()


def test_zeroes_are_not_sent_where_the_destination_is_zero(serve, copy, sparse):
    there = empty_like(sparse, "there")
    said = copy(sparse, serve("nbd-server", there), "--destination-is-zero")
    assert said["exit"] == 0
    assert said["bytes_sent"] < 4 * MIB
    assert there.read_bytes() == sparse.read_bytes()


def test_allocated_provisions_the_destination(serve, copy, sparse):
    there = empty_like(sparse, "there")
    assert copy(sparse, serve("nbdkit", there), "--allocated")["exit"] == 0
    assert there.read_bytes() == sparse.read_bytes()
    assert allocated(there) >= 16 * MIB


@pytest.mark.parametrize("connections", ["1", "2", "16"])
def test_any_number_of_connections(connections, serve, copy, sparse):
    there = empty_like(sparse, "there")
    said = copy(serve("qemu-nbd", sparse), serve("omavol", there), "-C", connections, "--verify")
    assert (said["exit"], said["lines"]) == (0, [])
    assert there.read_bytes() == sparse.read_bytes()


def test_progress_is_a_line_on_standard_error(copy, sparse, tmp_path):
    said = copy(sparse, tmp_path / "there", "-p")
    assert said["exit"] == 0
    assert "100.0%" in said["lines"][-1]

"""A disk that changes while it is copied: the digests are of what was sent (D1)."""

from __future__ import annotations

import os
import threading

from copy_data import MIB

from omavol.copy.engine import replicate
from omavol.copy.verify import verify

SIZE = 32 * MIB


def test_D1_digests_are_of_the_bytes_that_were_sent_not_of_the_file(tmp_path, serve):
    """A writer goes over the source without a pause; whatever it hit, the replica is what its digests say."""
    source, replica = tmp_path / "source", tmp_path / "replica"
    source.write_bytes(os.urandom(SIZE))
    over = threading.Event()

    def write() -> None:
        number = 0
        with source.open("r+b", buffering=0) as file:
            while not over.is_set():
                number += 1
                os.pwrite(file.fileno(), bytes([1 + number % 255]) * 4096, number * 13 * 4096 % SIZE)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for through in (str(source), serve("omavol", source)):  # read here, and sent to us by sendfile
            result = replicate(through, str(replica))
            assert result.digests is not None
            assert verify(replica, result.digests.encode()).matches
            replica.unlink()
    finally:
        over.set()
        writer.join()

"""Clients that hang up at once, while other workers wait for work, harm nobody else's descriptor."""

import socket

from benchmarks.servers import omavol_serve


def test_a_client_that_leaves_before_the_greeting_takes_nothing_with_it(tmp_path):
    """epoll tells of a hang-up unasked: two workers once shared such a connection, and one closed the listener."""
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    with omavol_serve(image, tmp_path) as server:
        path = server.uri.partition("socket=")[2]
        for _ in range(3000):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            assert client.recv(18).startswith(b"NBDMAGICIHAVEOPT")

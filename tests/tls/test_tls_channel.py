"""The compiled channel with TLS on it: both roles over a pair of sockets, and what OpenSSL refuses."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable

import pytest

from omavol._channel import SecureChannel, TlsCredentials, TlsFailed

LIMIT = 20.0


def serving(directory=None, **options) -> TlsCredentials:
    if directory is not None:
        options["ca"] = directory / "ca-cert.pem"
        options |= {"certificate": directory / "server-cert.pem", "key": directory / "server-key.pem"}
    return TlsCredentials(serving=True, **options)


def trusting(directory, **options) -> TlsCredentials:
    return TlsCredentials(serving=False, ca=directory / "ca-cert.pem", verify=True, **options)


class Pair:
    """Two ends of one TLS session; each step of one end runs beside the other's."""

    def __init__(self, server: TlsCredentials, client: TlsCredentials, host: str = "localhost") -> None:
        one, two = socket.socketpair()
        self.server = SecureChannel(one.detach(), server)
        self.client = SecureChannel(two.detach(), client, host)

    def both(self, at_server: Callable[[], object], at_client: Callable[[], object]) -> tuple[object, object]:
        """What each came to: its value, or what it raised."""
        found: list[object] = [None, None]

        def run(index: int, what: Callable[[], object]) -> None:
            try:
                found[index] = what()
            except (TlsFailed, OSError) as error:
                found[index] = error

        beside = threading.Thread(target=run, args=(0, at_server))
        beside.start()
        run(1, at_client)
        beside.join(LIMIT)
        assert not beside.is_alive()
        return found[0], found[1]

    def shake(self) -> tuple[object, object]:
        return self.both(lambda: self.server.handshake(LIMIT), lambda: self.client.handshake(LIMIT))

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def pair():
    made: list[Pair] = []

    def make(*arguments, **options) -> Pair:
        made.append(Pair(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def receive(end: SecureChannel, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = end.receive_into(view, LIMIT)
        assert count, "the peer closed too early"
        view = view[count:]
    return bytes(data)


def send(end: SecureChannel, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[end.send(view, LIMIT) :]


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["1.3", "1.2"])
def test_bytes_pass_both_ways_unchanged(pki, pair, newest):
    """More than sockets and buffers hold: the sender waits for the receiver."""
    ends = pair(serving(pki.server), trusting(pki.trusting, newest=newest))
    assert ends.shake() == (None, None)
    assert ends.client.protocol == ("TLSv1.2" if newest else "TLSv1.3")
    up, down = os.urandom(9_000_001), os.urandom(5_000_003)
    taken: dict[str, bytes] = {}

    def client() -> None:
        send(ends.client, up)
        taken["down"] = receive(ends.client, len(down))

    def server() -> None:
        taken["up"] = receive(ends.server, len(up))
        send(ends.server, down)

    assert ends.both(server, client) == (None, None)
    assert taken["up"] == up and taken["down"] == down


def test_the_quickest_safe_suite_is_chosen_and_nothing_below_tls_1_2_is_spoken(pki, pair):
    """T16, T17."""
    ends = pair(serving(pki.server), trusting(pki.trusting))
    ends.shake()
    assert ends.client.cipher == "TLS_AES_128_GCM_SHA256"


@pytest.mark.parametrize(
    ("directory", "host", "reason"),
    [
        ("expired", "localhost", "certificate has expired"),
        ("elsewhere", "localhost", "hostname mismatch"),
        ("server", "127.0.0.2", "IP address mismatch"),
    ],
)
def test_a_certificate_that_is_not_the_servers_ends_the_handshake(pki, pair, directory, host, reason):
    """T21, T22, CVE-2024-7383."""
    ends = pair(serving(getattr(pki, directory)), trusting(pki.trusting), host=host)
    _, said = ends.shake()
    assert isinstance(said, TlsFailed)
    assert reason in str(said)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_name_or_the_address_of_the_certificate_is_good(pki, pair, host):
    assert pair(serving(pki.server), trusting(pki.trusting), host=host).shake() == (None, None)


def test_a_certificate_of_an_unknown_authority_ends_the_handshake(pki, pair):
    """T22."""
    ends = pair(serving(pki.server), trusting(pki.stranger))
    server, client = ends.shake()
    assert "certificate verify failed" in str(client)
    assert "alert" in str(server), "the server is told why"


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["1.3", "1.2"])
@pytest.mark.parametrize("client", ["client", "stranger", "trusting"])
def test_a_client_without_a_good_certificate_is_refused_where_one_is_demanded(pki, pair, client, newest):
    files = {}
    if client != "trusting":
        directory = getattr(pki, client)
        files = {"certificate": directory / "client-cert.pem", "key": directory / "client-key.pem"}
    ends = pair(serving(pki.server, verify=True), trusting(pki.trusting, newest=newest, **files))
    server, _ = ends.shake()
    assert (server is None) == (client == "client"), server


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["1.3", "1.2"])
def test_a_pre_shared_key_opens_a_session_in_either_version(pki, pair, newest):
    ends = pair(serving(psk=pki.keys), TlsCredentials(serving=False, psk=pki.keys, user="alice", newest=newest))
    assert ends.shake() == (None, None)
    assert newest == "" or ends.client.cipher.startswith("DHE-PSK-AES128-GCM")


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["1.3", "1.2"])
@pytest.mark.parametrize("user", ["alice", "bob", "nobody"])
def test_a_wrong_key_and_an_unknown_user_are_refused(pki, pair, user, newest):
    ends = pair(serving(psk=pki.keys), TlsCredentials(serving=False, psk=pki.wrong_keys, user=user, newest=newest))
    server, client = ends.shake()
    assert isinstance(server, TlsFailed) and isinstance(client, TlsFailed)


@pytest.mark.parametrize("newest", ["", "1.2"], ids=["1.3", "1.2"])
def test_a_key_is_enough_where_others_have_to_show_a_certificate(pki, pair, newest):
    ends = pair(
        serving(pki.server, psk=pki.keys, verify=True),
        TlsCredentials(serving=False, psk=pki.keys, user="alice", newest=newest),
    )
    assert ends.shake() == (None, None)


def test_a_client_with_a_key_takes_no_certificate_instead(pki, pair):
    """Whoever knows a certificate does not know the key (T22)."""
    ends = pair(serving(pki.server), TlsCredentials(serving=False, psk=pki.keys, user="alice", verify=True))
    _, client = ends.shake()
    assert isinstance(client, TlsFailed)


def test_new_sessions_have_new_certificates_and_a_bad_file_leaves_the_old_ones(pki, pair, tmp_path):
    """Reload: the files are looked at when a session begins."""
    live = shutil.copytree(pki.elsewhere, tmp_path / "live")
    server = serving(live)
    assert isinstance(pair(server, trusting(pki.trusting)).shake()[1], TlsFailed)
    for name in ("server-cert.pem", "server-key.pem"):
        shutil.copy(pki.server / name, live / name)
    assert pair(server, trusting(pki.trusting)).shake() == (None, None)
    (live / "server-cert.pem").write_text("half a file")
    assert "server-cert.pem" in (server.load() or "")
    assert pair(server, trusting(pki.trusting)).shake() == (None, None)


def test_a_close_reaches_the_peer_as_the_end_of_its_session(pki, pair):
    """T18: what was sent before it is received, then the end."""
    ends = pair(serving(pki.server), trusting(pki.trusting))
    ends.shake()
    send(ends.client, b"the last words")
    ends.client.close()
    assert receive(ends.server, 14) == b"the last words"
    assert ends.server.receive_into(bytearray(1), LIMIT) == 0


@pytest.mark.parametrize(
    "garbage", [b"NBDMAGIC" * 40, b"\x16\x03\x01\xff\xff" + b"\0" * 70000, b"\x16\x03\x01\x00\x05\x01"]
)
def test_garbage_instead_of_a_handshake_fails(pki, garbage):
    one, two = socket.socketpair()
    with two:
        end = SecureChannel(one.detach(), serving(pki.server))
        two.sendall(garbage)
        two.shutdown(socket.SHUT_WR)
        with pytest.raises(TlsFailed):
            end.handshake(LIMIT)
        end.close()


def test_a_silent_peer_is_waited_for_as_long_as_asked_and_no_longer(pki):
    """C25."""
    one, two = socket.socketpair()
    with two:
        end = SecureChannel(one.detach(), serving(pki.server))
        with pytest.raises(TimeoutError):
            end.handshake(0.05)
        end.close()


def test_what_is_missing_is_named(pki, tmp_path):
    text = TlsCredentials(serving=True, certificate=tmp_path / "no-cert.pem", key=tmp_path / "no-key.pem").load()
    assert text is not None and "no-cert.pem" in text
    text = TlsCredentials(
        serving=True, certificate=pki.server / "server-cert.pem", key=pki.client / "client-key.pem"
    ).load()
    assert text is not None and "key values mismatch" in text

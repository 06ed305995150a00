"""NBD URIs: what is read, what is written, what is refused and in which words (the NBD project's doc/uri.md)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omavol.nbd.errors import BadUri
from omavol.nbd.uri import Security, Uri, is_uri, parse

GOOD = [
    ("nbd://localhost", Uri("localhost")),
    ("nbd://localhost/", Uri("localhost")),
    ("NBD://Example.COM:1234/disk", Uri("example.com", 1234, export="disk")),
    ("nbd://192.0.2.7/a/b/c", Uri("192.0.2.7", export="a/b/c")),
    ("nbd://host//absolute", Uri("host", export="/absolute")),
    ("nbd://[::1]:10810/disk", Uri("::1", 10810, export="disk")),
    ("nbd://user@host/disk", Uri("host", export="disk")),
    ("nbd://host/web%2001%2fx", Uri("host", export="web 01/x")),
    ("nbd://host/a+b", Uri("host", export="a+b")),
    ("nbd://host/%C3%A4", Uri("host", export="ä")),
    ("nbd://", Uri("localhost")),
    ("nbd+unix:///?socket=/tmp/s", Uri(socket="/tmp/s")),
    ("nbd+unix:///disk?socket=/tmp/a%20b", Uri(socket="/tmp/a b", export="disk")),
    ("nbd+unix:///disk?socket=/tmp/a+b", Uri(socket="/tmp/a+b", export="disk")),
    ("nbd+unix://?socket=relative", Uri(socket="relative")),
    ("nbd+vsock://", Uri(cid=2)),
    ("nbd+vsock://3:4294967295/disk", Uri(cid=3, port=4294967295, export="disk")),
    ("nbd+unix:///d?tls-hostname=x&socket=/s&socket=/t", Uri(socket="/s", export="d")),
]

BAD = [
    ("", "not an NBD URI"),
    ("/dev/vdb", "not an NBD URI"),
    ("http://host/", "not an NBD URI"),
    ("nbd://host/\udcff", "not a URI"),
    ("nbd://host:port/", "port"),
    ("nbd://host:0/", "port"),
    ("nbd://host:65536/", "port"),
    ("nbd://[::1/", "not a URI"),
    ("nbd://host/a#b", "%23"),
    ("nbd://host/%FF", "UTF-8"),
    ("nbd://host/a%00b", "NUL"),
    ("nbd://host/" + "x" * 4097, "4096"),
    ("nbd+unix:///disk", "which socket"),
    ("nbd+unix:///disk?socket=", "which socket"),
    ("nbd+unix://host/disk?socket=/s", "names a host"),
    ("nbd+unix:///disk?socket=/" + "x" * 107, "107"),
    ("nbd+unix:///disk?socket=/a%00b", "NUL"),
    ("nbd+vsock://host/", "by numbers"),
    ("nbd+vsock://4294967296/", "by numbers"),
]


@pytest.mark.parametrize(("text", "uri"), GOOD)
def test_a_uri_is_read(text, uri):
    assert parse(text) == uri


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_bad_uri_is_refused_in_one_line(text, words):
    with pytest.raises(BadUri) as refused:
        parse(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


SECURED = [
    ("nbds://host/disk", Uri("host", export="disk", tls=Security())),
    ("nbds://alice@host", Uri("host", tls=Security(username="alice"))),
    ("nbds+unix:///d?socket=/s&tls-certificates=/pki", Uri(socket="/s", export="d", tls=Security("/pki"))),
    ("nbds+vsock://2/?tls-hostname=a.example", Uri(cid=2, tls=Security(hostname="a.example"))),
    (
        "nbds+unix:///?tls-psk-file=/k%26&tls-username=bob&socket=/s",
        Uri(socket="/s", tls=Security(psk_file="/k&", username="bob")),
    ),
    ("nbds://host/?tls-verify-peer=false", Uri("host", tls=Security(verify_peer=False))),
    ("nbds+unix://bob@/?socket=/s", Uri(socket="/s", tls=Security(username="bob"))),
]


@pytest.mark.parametrize(("text", "uri"), SECURED)
def test_a_uri_of_tls_is_read_with_libnbds_parameters_and_written_again(text, uri):
    assert parse(text) == uri
    assert parse(str(uri)) == uri


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(names, st.sampled_from(["localhost", "192.0.2.1", "::1"]), st.integers(1, 65535))
def test_a_tcp_uri_survives_writing_and_reading(export, host, port):
    uri = Uri(host, port, export=export)
    assert parse(str(uri)) == uri


@given(names, st.text(st.characters(exclude_characters="\0", max_codepoint=0x2FF), min_size=1, max_size=40))
def test_a_unix_uri_survives_writing_and_reading(export, path):
    uri = Uri(socket=path, export=export)
    assert parse(str(uri)) == uri


@given(names, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_vsock_uri_survives_writing_and_reading(export, cid, port):
    uri = Uri(cid=cid, port=port, export=export)
    assert parse(str(uri)) == uri


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_a_uri_or_refused(text):
    for candidate in (text, f"nbd://{text}", f"nbd+unix:///{text}"):
        try:
            parse(candidate)
        except BadUri:
            continue


def test_another_export_of_the_same_server():
    assert str(parse("nbd://h/a").with_export("b c")) == "nbd://h:10809/b%20c"


def test_places_for_people():
    assert parse("nbd://h/a").place == "h port 10809"
    assert parse("nbd+unix:///a?socket=/s").place == "/s"
    assert parse("nbd+vsock://3/a").place == "vsock 3 port 10809"


@pytest.mark.parametrize(
    ("text", "yes"), [("nbd://h", True), ("nbds://h", True), ("nbd", False), ("./nbd:x", False), ("http://h", False)]
)
def test_a_uri_is_told_from_a_path(text, yes):
    assert is_uri(text) is yes

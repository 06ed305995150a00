"""How a session is secured, in the words of each program: not at all, by certificates on both sides, or by a key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from certificates import Pki

KINDS = ("x509", "psk")


@dataclass(frozen=True)
class Security:
    """`kind` is one of KINDS, or "plain". The key is alice's; the server's certificate is for localhost."""

    kind: str
    pki: Pki

    def uri(self, path: Path, export: str = "") -> str:
        """As our client and libnbd want it."""
        return {
            "plain": f"nbd+unix:///{export}?socket={path}",
            "x509": f"nbds+unix:///{export}?socket={path}&tls-certificates={self.pki.client}&tls-hostname=localhost",
            "psk": f"nbds+unix://alice@/{export}?socket={path}&tls-psk-file={self.pki.keys}",
        }[self.kind]

    def nbdkit(self) -> list[str]:
        """Options of nbdkit, the server."""
        return {
            "plain": [],
            "x509": ["--tls=require", f"--tls-certificates={self.pki.server}", "--tls-verify-peer"],
            "psk": ["--tls=require", f"--tls-psk={self.pki.keys}"],
        }[self.kind]

    def nbdkit_client(self) -> list[str]:
        """Parameters of nbdkit's nbd plugin, the client."""
        return {
            "plain": [],
            "x509": ["tls=require", f"tls-certificates={self.pki.client}"],
            "psk": ["tls=require", f"tls-psk={self.pki.keys}", "tls-username=alice"],
        }[self.kind]

    def nbd_server(self) -> str:
        """Lines of nbd-server's [generic]."""
        if self.kind == "plain":
            return ""
        place = self.pki.server
        return (
            f"certfile = {place}/server-cert.pem\nkeyfile = {place}/server-key.pem\ncacertfile = {place}/ca-cert.pem\n"
            "force_tls = true\n"
        )

    def nbd_client(self) -> list[str]:
        if self.kind == "plain":
            return []
        place = self.pki.client
        files = ("-certfile", place / "client-cert.pem", "-keyfile", place / "client-key.pem")
        return ["-x", *map(str, files), "-cacertfile", str(place / "ca-cert.pem"), "-tlshostname", "localhost"]

    def objects(self, endpoint: str) -> list[str]:
        """The credentials `t` of a program of qemu's that is the `endpoint`, "server" or "client"."""
        made = f"id=t,endpoint={endpoint}"
        user = ",username=alice" if endpoint == "client" else ""
        return {
            "plain": [],
            "x509": ["--object", f"tls-creds-x509,{made},dir={getattr(self.pki, endpoint)}"],
            "psk": ["--object", f"tls-creds-psk,{made},dir={self.pki.keys.parent}{user}"],
        }[self.kind]

    @property
    def credentials(self) -> str:
        """What names `t` in a list of options."""
        return "" if self.kind == "plain" else ",tls-creds=t"

    def node(self, path: Path) -> str:
        """The options of qemu's nbd driver, a client."""
        named = ",tls-hostname=localhost" if self.kind == "x509" else ""
        return f"driver=nbd,server.type=unix,server.path={path}{self.credentials}{named}"

    def disk(self, path: Path, opts: str = "--image-opts", raw: str = "-f") -> list[str]:
        """The options of qemu-img and qemu-io that stand before an image they open, and the image, in that order."""
        if self.kind == "plain":
            return [raw, "raw", self.uri(path)]
        driver = self.node(path).replace("driver=", "file.driver=").replace(",", ",file.")
        return [opts, f"driver=raw,{driver}"]

"""Free text made fit for anyone: paths, addresses, ids and names of tools are taken out."""

from __future__ import annotations

import re

__all__ = ["FORBIDDEN", "forbidden_in", "scrub"]

_WORDS = (
    r"virt-?v2v(?:-in-place)?|virt-?io(?:-win)?(?:\.iso)?|libguestfs|guestfish|migratekit|vddk|nbdkit|nbd-?copy|nbd-?info"
    r"|qemu[\w.-]*|libnbd|nbd-?server|nbd-?client|dmsetup|device-?mapper|losetup|blockdev|linstor|cloudstack|ossea"
    r"|sqlite3?|aiosqlite|mariadb|mysql|sqlalchemy|alembic|uvicorn|starlette|httpx2?|httpcore2?|msgspec|asyncio|python3?"
    r"|omavol|volume-?daemon|stunnel|sshd?|systemd|udev|traceback"
)

_IPV6 = r"\[?(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:%\w+)?(?![\w:])\]?(?::\d+)?"

# In this order: a URL contains an address, an address may contain what looks like a path.
FORBIDDEN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:[a-z][a-z0-9+.-]*)://[^\s\"'<>,;)\]}]+", re.I), "an address"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I), "an id"),
    (re.compile(r"\bjob-\d{8}-\d{6}\.\d{3}-[0-9a-f]{6}\b", re.I), "a job"),
    (re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.]\d)"), "an address"),
    (
        re.compile(r"\[?(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:%\w+)?(?![\w:])\]?(?::\d+)?", re.I),
        "an address",
    ),
    (re.compile(r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}:\d{1,5}\b|\blocalhost(?::\d+)?\b", re.I), "an address"),
    (re.compile(r"(?<![\w/])~?(?:\.{0,2}/)(?:[^\s\"'<>:,;)\]}]+)"), "a file"),
    (re.compile(r"\b[A-Za-z]:\\[^\s\"'<>,;)\]}]+"), "a file"),
    (re.compile(r"\b[\w-]+\.(?:py|sh|so|iso|sock|service|conf|qcow2|vmdk|sqlite)\b", re.I), "a file"),
    (re.compile(r"\b(?:vd|sd|xvd|hd)[a-z]{1,2}\d{0,3}\b|\b(?:dm|loop|nbd)-?\d+\b|\bnvme\d+n\d+\b"), "a device"),
    (re.compile(r"\b[0-9a-f]{20,}\b", re.I), "an id"),
    (re.compile(rf"\b(?:{_WORDS})\b", re.I), "a component"),
)

_MANY_BLANKS = re.compile(r"\s+")


def scrub(text: str) -> str:
    """The text with everything internal replaced by what kind of thing it was, on one line."""
    while forbidden_in(text):  # what one pattern leaves may be another's; each round takes at least one match away
        for pattern, substitute in FORBIDDEN:
            text = pattern.sub(substitute, text)
    return _MANY_BLANKS.sub(" ", text).strip()


def forbidden_in(text: str) -> str | None:
    """The first internal thing that a text still has, or None: what the tests ask of every public text."""
    return next((found[0] for pattern, _ in FORBIDDEN if (found := pattern.search(text))), None)

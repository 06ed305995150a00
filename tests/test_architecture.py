"""Arrows point down: which part may import which. The lists here are the map (ARCHITECTURE.md, rule 12)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"
LINE_LIMIT = 400

# A part may import every part on a lower row, and itself; parts on one row are strangers.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("omavol._wire", "omavol._libdevmapper", "omavol.schema", "omavol.failpoint"),
    ("omavol._channel", "omavol._store", "omavol.journal"),
    ("omavol._fastio", "omavol.nbd"),
    ("omavol.serve", "omavol.copy", "omavol.load", "omavol.conformance"),
    ("omavol.block", "omavol.source"),
    ("omavol.cloud",),
    ("omavol.volumes",),
    ("omavol.client",),
    ("omavol.daemon", "omavol.agent"),
    ("omavol.cli",),
    ("omactl.rules",),
    ("omactl.store",),
    ("omactl.settings",),
    ("omactl.sources",),
    ("omactl.work", "omactl.access"),
    ("omactl.api",),
    ("omactl.cli",),
)
FLOOR_OF = {part: number for number, row in enumerate(FLOORS) for part in row}

# What omactl may take from omavol: the client, the shared types, the shared command group, the crash tests' places.
OMAVOL_FOR_OMACTL = ("omavol.client", "omavol.schema", "omavol.cli", "omavol.failpoint")

# Rooms that are pure: values in, values out.
PURE = {
    "omactl.rules": ("asyncio", "httpx2", "os", "pathlib", "socket", "sqlalchemy", "sqlite3", "starlette", "time"),
    "omavol.volumes.content": ("asyncio", "os", "pathlib", "socket", "sqlite3", "time"),
    "omavol.volumes.fence": ("asyncio", "os", "pathlib", "socket", "sqlite3", "time"),
    "omavol.volumes.reconcile": ("asyncio", "os", "pathlib", "socket", "sqlite3", "time"),
    "omavol.copy.plan": ("asyncio", "os", "pathlib", "socket", "sqlite3", "time"),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The part a module belongs to, by the longest name on the map; None for the two roots."""
    pieces = module.split(".")
    return next((name for size in range(len(pieces), 1, -1) if (name := ".".join(pieces[:size])) in FLOOR_OF), None)


def imports_of(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports; `from omavol import _fastio` counts as omavol._fastio."""
    if path.suffix != ".py":
        for line in path.read_text().splitlines():
            if match := re.match(r"\s*(?:from|cimport|import)\s+(oma[a-z]+(?:\.\w+)*)", line):
                yield match[1]
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*") if path.suffix in suffixes)


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd"), ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    part = part_of(module)
    if part is None:
        assert module in ("omavol", "omactl", "omavol._dm"), f"{module} stands on no floor of the map"
        return
    for imported in imports_of(path):
        target = part_of(imported)
        if target is None or target == part:
            continue
        assert FLOOR_OF[target] < FLOOR_OF[part], f"{module} imports {imported}, which is not below it"
        if module.startswith("omactl") and imported.startswith("omavol."):
            assert target in OMAVOL_FOR_OMACTL, f"{module} reaches into {imported}; omactl speaks HTTP to omavol"
        if module.startswith("omavol"):
            assert not imported.startswith("omactl"), f"{module} imports the control plane"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_touch_nothing(room):
    paths = [path for path in sources(".py") if module_of(path) == room or module_of(path).startswith(f"{room}.")]
    assert paths, f"{room} is on the list and does not exist"
    for path in paths:
        roots = {name.split(".")[0] for name in _all_imports(path)}
        assert not roots & set(PURE[room]), f"{module_of(path)} is to be pure"


def _all_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd", ".pxi"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_is_one_idea(path):
    assert len(path.read_text().splitlines()) <= LINE_LIMIT, f"past {LINE_LIMIT} lines a file is two ideas"


@pytest.mark.parametrize("path", sources(".py"), ids=module_of)
def test_every_module_says_why_it_exists(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{module_of(path)} has no docstring"


@pytest.mark.parametrize("path", sources(".pyx"), ids=module_of)
def test_every_compiled_module_has_a_stub(path):
    assert path.with_suffix(".pyi").exists()

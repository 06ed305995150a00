"""The type stubs of the compiled modules say what the modules have: names, and the parameters of each, in order."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent / "src" / "omavol"
COMPILED = [path.stem for path in sorted(HOME.glob("*.pyx"))]
FOR_TYPES_ALONE = {"Protocol", "TypedDict", "NamedTuple"}  # bases of classes that a stub may have to itself
Function = ast.FunctionDef


def stub_of(name: str) -> ast.Module:
    return ast.parse((HOME / f"{name}.pyi").read_text())


def classes_of(name: str) -> dict[str, ast.ClassDef]:
    return {
        node.name: node
        for node in stub_of(name).body
        if isinstance(node, ast.ClassDef) and not {ast.unparse(base) for base in node.bases} & FOR_TYPES_ALONE
    }


def parameters_of(function: Function) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls")]


def taken(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]  # type: ignore[arg-type]


def begun_with(name: str) -> list[str] | None:
    """Parameters of the __cinit__ of a compiled class, which nothing can be asked for; None: it has none."""
    for path in (*HOME.glob("*.pyx"), *HOME.rglob("*.pxi")):
        found = re.search(rf"^cdef class {name}\b.*?(?=^\S)", path.read_text() + "\n.", re.M | re.S)
        if found is None:
            continue
        taken = re.search(r"def __cinit__\((.*?)\n?\s*\)(?: -> \w+)?:", found[0], re.S)
        if taken is None:
            return None
        pieces = [piece.partition("=")[0].split() for piece in _split(taken[1])]
        words = [next(word for word in reversed(piece) if word not in ("not", "None")) for piece in pieces if piece]
        return [word.lstrip("*") for word in words if word not in ("self", "*", "/")]
    raise AssertionError(f"no source defines {name}")


def _split(text: str) -> list[str]:
    """By commas outside brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


@pytest.mark.parametrize("name", COMPILED)
def test_what_the_stub_names_is_there(name):
    module = importlib.import_module(f"omavol.{name}")
    for node in stub_of(name).body:
        if isinstance(node, Function):
            assert parameters_of(node) == taken(getattr(module, node.name)), node.name
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            assert hasattr(module, node.target.id), node.target.id


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in COMPILED for kind in classes_of(name)])
def test_a_class_of_the_stub_has_its_members_and_no_others(name, kind):
    real = getattr(importlib.import_module(f"omavol.{name}"), kind)
    told: set[str] = set()
    for node in classes_of(name)[kind].body:
        if isinstance(node, ast.AnnAssign):
            told.add(ast.unparse(node.target))
        if not isinstance(node, Function):
            continue
        told.add(node.name)
        if node.name == "__init__":
            compiled = not issubclass(real, Exception)
            begun = begun_with(kind) if compiled else taken(real.__init__)
            assert parameters_of(node) == (begun or []), node.name
        elif any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
            assert not callable(getattr(real, node.name)), node.name
        else:
            assert parameters_of(node) == taken(getattr(real, node.name)), node.name
    have = {member for member in vars(real) if not member.startswith("_")}
    told -= {"__init__"}
    if issubclass(real, Exception):
        assert have <= told
    else:
        assert have == {member for member in told if not member.startswith("__")}


@pytest.mark.parametrize("name", COMPILED)
def test_what_the_module_offers_is_in_the_stub(name):
    module = importlib.import_module(f"omavol.{name}")
    offered = {
        found
        for found, value in vars(module).items()
        if not found.startswith("_")
        and not inspect.ismodule(value)
        and (inspect.isclass(value) or callable(value))
        and getattr(value, "__module__", None) == module.__name__
    }
    told = {node.name for node in stub_of(name).body if isinstance(node, Function | ast.ClassDef)}
    assert offered <= told

"""docs/NBD.md against the tests: every rule and every fault of others is named by a test, but for the lists here.

A test names a rule in its name, its docstring, a comment or the key of a table; a module's docstring does not count.
The lists of what is open may only shrink: a rule that got its test has to leave them.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOCUMENT = (HERE.parent / "docs" / "NBD.md").read_text()
CVES = sorted(set(re.findall(r"CVE-\d{4}-\d+", DOCUMENT)))
RULES = list(dict.fromkeys(re.findall(r"\b([HTXCD]\d{1,2}) (?:Sm|Sp|Spe|Me|Se|M|S|H)\b", DOCUMENT)))

OPEN_RULES: frozenset[str] = frozenset()
OPEN_CVES: frozenset[str] = frozenset()


@cache
def texts() -> str:
    """Every test file without its module docstring."""
    parts = []
    for path in sorted(HERE.rglob("*.py")):
        if path == Path(__file__):
            continue
        source = path.read_text()
        lines, body = source.splitlines(), ast.parse(source).body
        start = body[0].end_lineno if body and ast.get_docstring(ast.parse(source)) else 0
        parts.append("\n".join(lines[start:]))
    return "\n".join(parts)


@cache
def rules_named() -> frozenset[str]:
    """Rules in capitals anywhere, in small letters in the names of tests; H29-H42 and X7 to X19 name all between."""
    text = texts()
    named = set(re.findall(r"(?<![A-Za-z0-9])([HTXCD]\d{1,2})(?![A-Za-z0-9])", text))
    for name in re.findall(r"def test_(\w+)", text):
        named |= {part.upper() for part in re.findall(r"(?<![a-z0-9])([htxcd]\d{1,2})(?![a-z0-9])", name)}
    return frozenset(named)


def test_the_document_was_understood():
    assert len(CVES) >= 24
    for letter, last in (("H", 56), ("T", 23), ("X", 70), ("C", 27), ("D", 9)):
        assert [rule for rule in RULES if rule[0] == letter] == [f"{letter}{n}" for n in range(1, last + 1)]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_named_by_a_test(rule):
    if rule in OPEN_RULES:
        assert rule not in rules_named(), f"{rule} has its test: take it off OPEN_RULES"
        pytest.skip(f"{rule} is open")
    assert rule in rules_named(), f"no test names {rule}"


@pytest.mark.parametrize("cve", CVES)
def test_every_fault_of_others_is_named_by_a_test(cve):
    if cve in OPEN_CVES:
        assert cve not in texts(), f"{cve} has its test: take it off OPEN_CVES"
        pytest.skip(f"{cve} is open")
    assert cve in texts(), f"no test names {cve}"

"""Records what every target comes to, and writes docs/CONFORMANCE.md's tables from it (scripts/conformance-table)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judged import judge
from targets import CLIENTS, SERVERS, UNSTEADY, Target

__all__ = ["DOCUMENT", "outcomes", "recorded", "tables"]

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "CONFORMANCE.md"
_BEGIN, _END = "<!-- tables: scripts/conformance-table writes them -->", "<!-- end of tables -->"
_SIGNS = {"pass": "pass", "fail": "**fail**", "not offered": "–", "skipped": "skipped"}


def outcomes(told: dict[str, Any]) -> dict[str, str]:
    """The outcome of every rule; of a failure also what came, without paths and cookies, which change."""
    found = {}
    for result in told["results"]:
        came = re.sub(r"(/\S+|0x[0-9a-f]+|\d{4,})", "…", result["came"]) if result["outcome"] == "fail" else ""
        found[result["check"]] = f"fail: {came}" if came else result["outcome"]
    return found


def recorded(target: Target) -> dict[str, str]:
    return dict(json.loads(target.file.read_text())["outcomes"])


def record(target: Target) -> None:
    told = judge(*target.arguments(), limit=600)
    assert told["ended"] is None, told["ended"]
    rows = {
        result["check"]: {key: result[key] for key in ("rule", "tag", "experimental", "sentence", "section")}
        for result in told["results"]
    }
    target.file.parent.mkdir(exist_ok=True)
    document = {"target": target.name, "outcomes": outcomes(told)}
    target.file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (target.file.parent / f"rows-{target.kind}.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def tables() -> str:
    """Both tables, and the failures in words."""
    parts = []
    for title, targets in (("Servers", SERVERS), ("Clients", CLIENTS)):
        parts += [f"### {title}", "", *_table(targets), "", f"### {title}: what failed", "", *_failures(targets), ""]
    return "\n".join(parts)


def _rows(targets: Sequence[Target]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads((targets[0].file.parent / f"rows-{targets[0].kind}.json").read_text())
    return rows


def _tag(row: dict[str, Any]) -> str:
    return row["tag"] + ("/e" if row["experimental"] else "")


def _table(targets: Sequence[Target]) -> list[str]:
    lines = [f"| rule | tag | what is right | {' | '.join(target.name for target in targets)} |"]
    lines.append("|---|---|---|" + "---|" * len(targets))
    for name, row in _rows(targets).items():
        cells = [_cell(target, name) for target in targets]
        lines.append(f"| {row['rule']} | {_tag(row)} | {row['sentence']} | {' | '.join(cells)} |")
    return lines


def _cell(target: Target, name: str) -> str:
    if name in UNSTEADY.get(target.name, ()):
        return "**now and then**"
    return _SIGNS[recorded(target).get(name, "not offered").split(":")[0]]


def _failures(targets: Sequence[Target]) -> list[str]:
    rows, lines = _rows(targets), []
    for target in targets:
        failed = {name: text[6:] for name, text in recorded(target).items() if text.startswith("fail: ")}
        for name in sorted(UNSTEADY.get(target.name, ())):
            failed[name] = f"now and then ({failed[name]})" if name in failed else "now and then"
        if not failed:
            lines += [f"- **{target.name}**: nothing."]
            continue
        lines.append(f"- **{target.name}**:")
        for name, came in failed.items():
            row = rows[name]
            lines.append(f"  - {row['rule']} {_tag(row)}, {row['sentence']}: {came}")
    return lines


def write() -> None:
    """Put the tables between their marks."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    DOCUMENT.write_text(f"{before}{_BEGIN}\n\n{tables()}\n{_END}{after}")


if __name__ == "__main__":
    wanted = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for each in () if "--docs" in sys.argv else (*SERVERS, *CLIENTS):
        if not wanted or each.name in wanted:
            print(each.name, flush=True)
            record(each)
    write()

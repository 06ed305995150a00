"""Runs `omavol conformance --json`, and says what it found."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from benchmarks.servers import OMAVOL

__all__ = ["failures", "judge"]


def judge(*arguments: str, limit: float = 150) -> dict[str, Any]:
    """The document of one run."""
    argv = [OMAVOL, "conformance", "--json", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit)
    assert done.returncode < 2, done.stderr
    return json.loads(done.stdout)


def failures(told: dict[str, Any]) -> dict[str, str]:
    """What failed, and what came."""
    return {result["check"]: result["came"] for result in told["results"] if result["outcome"] == "fail"}

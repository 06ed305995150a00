"""Every program of docs/EMBEDDING.md runs as it stands and prints what the guide says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parent.parent / "docs" / "EMBEDDING.md").read_text()
PROGRAMS = {
    section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```\n```text\n(.*?)^```$", section, re.M | re.S)
    for section in GUIDE.split("\n## ")[1:]
    if "```" in section
}


def test_every_program_of_the_guide_says_what_it_prints():
    assert sum(map(len, PROGRAMS.values())) == GUIDE.count("```python") == GUIDE.count("```text") >= 6


@pytest.mark.parametrize("title", PROGRAMS)
def test_a_program_of_the_guide_runs_and_prints_what_is_said(title, tmp_path):
    for program, printed in PROGRAMS[title]:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert (ran.stdout, ran.stderr, ran.returncode) == (printed, "", 0)

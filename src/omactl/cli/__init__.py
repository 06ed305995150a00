"""The command line of the control plane, a file a command; nothing is imported before it is needed.

A command module defines `command`, a click command, and is listed here with its one-line help.
"""

from __future__ import annotations

import sys

from omactl import __version__

COMMANDS: dict[str, str] = {
    "cancel": "Ask a running job to end; its volumes stay.",
    "contexts": "List the machines under management.",
    "discover": "Ask a source for its machines, and put them under management.",
    "job": "Show a job with its steps and disks.",
    "jobs": "List jobs of every kind, newest first.",
    "link": "Make a link that opens the page once.",
    "migrate": "Bring the database to the schema of this version.",
    "replicate": "Start the replication of a machine.",
    "serve": "Run the control plane.",
}


def main() -> None:
    """Entry point of `omactl`. `--version` answers before anything is imported."""
    if sys.argv[1:] == ["--version"]:
        print(f"omactl {__version__}")
        return
    from omactl.cli.root import run  # click costs 30 ms: only when a command runs

    run()

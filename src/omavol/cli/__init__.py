"""The command line, a file a command; nothing is imported before it is needed.

A command module defines `command`, a click command, and is listed here with its one-line help.
"""

from __future__ import annotations

import sys

from omavol import __version__

COMMANDS: dict[str, str] = {
    "agent": "Serve the machines of a source host: freeze, read, push.",
    "attach": "Make a block device of an export, by the kernel's own client.",
    "attached": "Show the devices of the kernel's NBD client, and who uses them.",
    "bench": "Load an NBD server and tell how fast it answers.",
    "conformance": "Judge an NBD server, or a client, by the protocol document.",
    "copy": "Copy a disk between files and NBD exports, at the speed of the slower one.",
    "daemon": "Keep the volumes of this appliance: record, attach, export, prove.",
    "detach": "Let a device of the kernel's NBD client go.",
    "devices": "Show volumes and this machine's disks side by side, trouble first.",
    "doctor": "Show what this machine lacks for which command, and how to get it.",
    "exports": "Show and change what a running server serves.",
    "info": "Show what an NBD server offers.",
    "map": "Show the extents of an export or a file.",
    "names": "Show the device-mapper nodes that give volumes their names.",
    "serve": "Serve files and block devices by NBD.",
}


def main() -> None:
    """Entry point of `omavol`. `--version` answers before anything is imported, a plain `copy` before click is."""
    if sys.argv[1:] == ["--version"]:
        print(f"omavol {__version__}")
        return
    if sys.argv[1:2] == ["copy"]:
        from omavol.cli import copying

        if (asked := copying.parse(sys.argv[2:])) is not None:
            sys.exit(copying.run(**asked))
    from omavol.cli.group import run  # click costs 30 ms: only when a command runs

    run()

"""Run the demonstration; `--stay` leaves the appliance running and prints its addresses."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from demo.acts import Story
from demo.console import fact, out
from demo.machine import SourceMachine
from demo.processes import Appliance


def main() -> None:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--stay", action="store_true", help="leave everything running until Ctrl-C")
    stay = parser.parse_args().stay
    signal.signal(signal.SIGTERM, lambda *_: raise_exit())
    folder = Path(tempfile.mkdtemp(prefix="oma-", dir="/var/tmp"))
    folder.chmod(0o755)  # the NBD server runs as nobody
    machine = SourceMachine(folder / "inventory/web01")
    appliance = Appliance(folder, folder / "inventory")
    try:
        tell(Story(machine, appliance), stay)
    except KeyboardInterrupt:
        out.print("\nstopped")
    finally:
        appliance.stop()
        machine.stop()
        shutil.rmtree(folder)


def tell(story: Story, stay: bool) -> None:
    """All acts, or with `stay` a replicated machine and the addresses until Ctrl-C."""
    out.print("[bold]OMA: the main job on this machine, end to end[/bold]")
    story.make_machine()
    story.start_processes()
    story.replicate_in_full()
    if stay:
        return remain(story)
    story.replicate_changes()
    story.prove()
    story.crash_the_agent()
    story.list_jobs()
    out.print("\n[bold]Done:[/bold] every volume equals its source disk; everything is taken down again.")
    return None


def remain(story: Story) -> None:
    url = story.appliance.url
    link = story.control.post("/api/v1/access/links", {})["path"]
    out.print("\n[bold]Running until Ctrl-C:[/bold]")
    fact(f"page, once       {url}{link}")
    fact(f"health           {url}/health")
    fact(f"jobs             {url}/api/v1/jobs")
    fact(f"API document     {url}/openapi.json")
    fact(f"admin token      {story.appliance.state}/omactl/admin-token (mode 0600)")
    fact(f"volume API       {story.appliance.state}/daemon/volumes.sock (unix)")
    fact(f"source API       {story.appliance.agent_url}/api/v1/version")
    signal.pause()


def raise_exit() -> None:
    raise SystemExit("stopped by SIGTERM")


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as failure:
        raise SystemExit(str(failure)) from None

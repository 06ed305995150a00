"""`omavol detach`: let a device of the kernel's NBD client go."""

from __future__ import annotations

import click

from omavol.cli.blocktool import problems

__all__ = ["command"]


@click.command("detach")
@click.argument("device", metavar="/dev/nbdN")
@click.option("--force", is_flag=True, help="Though it is in use, and without a sync: what uses it gets errors.")
def command(device: str, force: bool) -> None:
    """Sync a device that `omavol attach` made, and let it go. Refused while it is in use; says by whom."""
    from omavol.block.attach import detach

    with problems():
        click.echo(f"{detach(device, force=force)} is detached")

"""What the commands about the kernel's devices share: one line for every failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["problems"]


@contextmanager
def problems() -> Iterator[None]:
    """End the command with one line on stderr and status 1 for what can be expected to go wrong."""
    from omavol.block.errors import BlockError
    from omavol.nbd.errors import NbdError

    try:
        yield
    except (BlockError, NbdError) as error:
        raise click.ClickException(f"{error}. {error.advice}" if error.advice else str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'the kernel'}: {error.strerror}") from error

"""Where volumes come from: one small interface, a provider a file.

`volumes` the interface, its errors and facts · `local` sparse files of this machine · `cloudstack`, with `asking` for
one request and `asyncjobs` for what the cloud does in its own time · `fake` a CloudStack to test against. A new
provider is a class with the five methods of `VolumeProvider` and a line in `PROVIDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from omavol.cloud.cloudstack import CloudStackProvider
from omavol.cloud.local import LocalProvider
from omavol.cloud.volumes import ProviderMisconfigured, VolumeProvider
from omavol.schema.volumes import Provider

__all__ = ["PROVIDERS", "provider_for"]

PROVIDERS: Mapping[str, Callable[[Provider, Path], VolumeProvider]] = {
    "cloudstack": CloudStackProvider.from_settings,
    "local": LocalProvider.from_settings,
}


def provider_for(row: Provider, state: Path) -> VolumeProvider:
    """The provider that the row asks for, made anew for every operation; an unusable row is an error, never a default.

    `state` is the daemon's directory.
    """
    make = PROVIDERS.get(row.kind)
    if make is None:
        raise ProviderMisconfigured(
            f"there is no provider {row.kind!r}", advice=(f"Known providers: {', '.join(sorted(PROVIDERS))}.",)
        )
    return make(row, state)

"""Machines as a source describes them."""

from __future__ import annotations

from omavol.schema.source import DiskDescription, Machine, PowerState


def machine(name="web01", disks=2, size=64 << 20):
    return Machine(
        id=f"id-{name}",
        name=name,
        path=f"/lab/{name}",
        power_state=PowerState.ON,
        disks=[
            DiskDescription(
                id=f"disk-{2000 + number}",
                label=f"Hard disk {number + 1}",
                path=f"[lab] {name}/{number}",
                capacity_bytes=size,
                size_gb=1,
                format="raw",
                unit_number=number,
                tracks_changes=True,
            )
            for number in range(disks)
        ],
    )

"""`python -m omavol.cloud.fake`: serve the fake CloudStack until it is interrupted."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import click
import msgspec
import uvicorn

from omavol.cloud.fake.api import FakeCloud
from omavol.cloud.fake.hardware import Files, Hardware, Nothing, Qemu
from omavol.cloud.fake.jobs import Fault
from omavol.cloud.fake.model import Model, new_id
from omavol.cloud.fake.qmp import Monitor


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--api-key", default="key", show_default=True)
@click.option("--secret", default="secret", show_default=True)
@click.option("--machine", "machines", multiple=True, metavar="ID[=NAME]", help="A machine that is there; repeatable.")
@click.option("--pace", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Multiplies what jobs take.")
@click.option("--clock-skew", type=float, default=0.0, help="Seconds its clock is ahead.")
@click.option("--most", type=click.IntRange(min=1), default=32, show_default=True, help="Data disks of a machine.")
@click.option("--state", type=click.Path(path_type=Path), help="A file that outlives it.")
@click.option("--log", type=click.Path(path_type=Path), help="A file that gets a JSON line for each call.")
@click.option("--faults", type=click.Path(exists=True, path_type=Path), help="A JSON list of faults to begin with.")
@click.option("--files", type=click.Path(path_type=Path), help="A folder for the volumes' bytes.")
@click.option(
    "--qmp", type=click.Path(exists=True, path_type=Path), help="The monitor of the QEMU that gets the disks."
)
@click.option("--seen-as", type=click.Path(path_type=Path), help="Where that QEMU sees --files, if elsewhere.")
@click.option("--ports", default=8, show_default=True, help="Its free PCIe ports, port0 and so on.")
@click.option("--scsi-bus", help="A SCSI bus of it to use in their place, such as scsi.0.")
def main(
    host: str,
    port: int,
    api_key: str,
    secret: str,
    machines: tuple[str, ...],
    pace: float,
    clock_skew: float,
    most: int,
    state: Path | None,
    log: Path | None,
    faults: Path | None,
    files: Path | None,
    qmp: Path | None,
    seen_as: Path | None,
    ports: int,
    scsi_bus: str | None,
) -> None:
    """A CloudStack to test against: volumes, machines, snapshots and jobs, over real HTTP at /client/api.

    With --files volumes have bytes, with --qmp they are disks of a QEMU. POST /faults arranges what goes wrong.
    """
    if qmp is not None and files is None:
        raise click.UsageError("--qmp needs --files: a folder for the disks' bytes")
    hardware: Hardware = Nothing()
    if qmp is not None and files is not None:
        free = [f"port{number}" for number in range(ports)]
        hardware = Qemu(Monitor(qmp), files, seen_as or files, free, scsi_bus)
    elif files is not None:
        hardware = Files(files)
    cloud = FakeCloud(Model(hardware, most=most), api_key, secret, pace, clock_skew, state, log)
    for each in machines:
        id, _, name = each.partition("=")
        cloud.model.add_machine(id, name or id)
    for fault in msgspec.json.decode(faults.read_bytes(), type=list[Fault]) if faults else ():
        cloud.faults.add(fault)
    if not cloud.model.machines:
        cloud.model.add_machine(new_id(), "machine1")
    bound = socket.create_server((host, port))
    address = bound.getsockname()
    facts = {
        "api_url": f"http://{address[0]}:{address[1]}/client/api",
        "api_key": api_key,
        "secret": secret,
        "zone_id": cloud.model.zone,
        "disk_offering_id": cloud.model.offering,
        "machines": list(cloud.model.machines),
    }
    click.echo(json.dumps(facts))
    uvicorn.Server(uvicorn.Config(cloud.app, log_level="critical", lifespan="off")).run(sockets=[bound])


if __name__ == "__main__":
    main()

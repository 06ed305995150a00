"""The seven things that `make run` shows, in order, each with what it proved."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from demo.console import Bar, act, fact, mebibytes
from demo.control import FINAL, Control, Volumes
from demo.machine import MIB, SourceMachine, run
from demo.processes import Appliance

__all__ = ["Story"]

MACHINE = "web01"
JOB_LIMIT = 300.0
SLOW = 48 * MIB  # bytes a second: slow enough to be interrupted on purpose
MUCH = 192 * MIB


class Story:
    """One run of the demonstration; each act needs the ones before it."""

    def __init__(self, machine: SourceMachine, appliance: Appliance) -> None:
        self.machine = machine
        self.appliance = appliance
        self.disks: list[dict[str, Any]] = []

    @cached_property
    def control(self) -> Control:
        return Control(self.appliance.url, self.appliance.token)

    @cached_property
    def volumes(self) -> Volumes:
        return Volumes(self.appliance.volumes_socket)

    def make_machine(self) -> None:
        act(1, f"A source machine, {MACHINE}, with two disks")
        started = time.monotonic()
        self.machine.create()
        fact("system.qcow2: 4 GiB, ext4, 320 MiB of this machine's own files; data.raw: 1 GiB, 160 MiB of data")
        fact(
            f"held open by a qemu-storage-daemon, as a running machine's disks are ({time.monotonic() - started:.1f} s)"
        )

    def start_processes(self) -> None:
        act(2, "The four processes")
        self.appliance.start()
        for process in self.appliance.processes:
            fact(f"{process.name:<14} pid {process.pid:<8} log {process.log}")

    def replicate_in_full(self) -> None:
        act(3, "Discover the machine, replicate it in full")
        found = self.control.post("/api/v1/discovery/discover-vms", {"create_context": True})
        for machine in found["discovered_vms"]:
            sizes = ", ".join(f"{disk['id']} {mebibytes(disk['capacity_bytes'])}" for disk in machine["disks"])
            fact(f"found {machine['name']} ({machine['power_state']}): {sizes}")
        job = self._follow(self.control.replicate(MACHINE))
        self._expect(job, "completed")
        self.disks = job["disks"]
        self._account(job)

    def replicate_changes(self) -> None:
        act(4, "Change some files on the source, replicate what changed")
        written = self.machine.change_files(1)
        fact(f"edited, added and deleted files, wrote into the data disk: {mebibytes(written)} by the guest's count")
        job = self._follow(self.control.replicate(MACHINE))
        self._expect(job, "completed")
        assert all(disk["mode"] == "incremental" for disk in job["disks"]), job["disks"]
        self._account(job)

    def prove(self) -> None:
        act(5, "Proof: digests, a second opinion, and a file system check")
        for disk in self.disks:
            volume = self.volumes.volume(disk["volume_id"])
            content = volume["content"]
            assert content["state"] == "point" and content["proof"] == "digest", content
            fact(f"{disk['disk_id']} = {volume['persistent_name']}: at point {content['point']}, proved by digest")
        fact("digests: hashed from the buffers that were sent, compared by the daemon with the volume read again")
        fact("past the page cache")
        self._second_opinion()

    def crash_the_agent(self) -> None:
        act(6, "Kill the source agent in the middle of a third replication")
        self.machine.write_much(MUCH)
        job_id = self.control.replicate(MACHINE, rate_limit=SLOW)
        self._follow(job_id, until=lambda job: job["bytes_transferred"] > MUCH // 4)
        self.appliance.agent.kill()
        fact("SIGKILL to omavol agent, mid-transfer")
        torn = [name for disk in self.disks if (name := self._torn(disk))]
        assert torn, "a volume that was being written to must say so"
        fact(f"meanwhile torn, and said so: {', '.join(torn)}")
        self.appliance.agent.start()
        fact("omavol agent started again")
        job = self._follow(job_id)
        self._expect(job, "failed")
        fact(f"the job ended as failed: {job['error_message']}")
        for advice in job["actionable_steps"]:
            fact(f"    what to do: {advice}")
        again = self._follow(self.control.replicate(MACHINE))
        self._expect(again, "completed")
        fact("a new job was accepted at once, and completed:")
        self._account(again)
        assert not any(self._torn(disk) for disk in self.disks)
        self._second_opinion()

    def list_jobs(self) -> None:
        act(7, "The unified job list, as GET /api/v1/jobs gives it")
        for job in self.control.get("/api/v1/jobs")["jobs"]:
            seconds = f"{job.get('duration_seconds', 0)} s"
            fact(
                f"{job['job_id']}  {job['display_name']:<28} {job['status']:<10} {job['progress']:5.1f} %  "
                f"{mebibytes(job['bytes_transferred']):>12}  {seconds:>5}  {job.get('error_message', '')}"
            )

    # --- parts of acts ---------------------------------------------------------------------------------------------

    def _follow(self, job_id: str, until: Any = lambda job: job["status"] in FINAL) -> dict[str, Any]:
        with Bar() as bar:
            return self.control.wait(
                job_id,
                until=lambda job: until(job) or job["status"] in FINAL,
                seen=lambda job: bar.show(job["bytes_transferred"], job["total_bytes"], job.get("current_step", "")),
                limit=JOB_LIMIT,
            )

    @staticmethod
    def _expect(job: dict[str, Any], status: str) -> None:
        if job["status"] != status:
            raise SystemExit(f"job {job['job_id']} is {job['status']}, not {status}: {job.get('error_message')}")

    def _account(self, job: dict[str, Any]) -> None:
        """What a finished job moved, and how fast: the transfer alone, and all of it with set-up and proof."""
        read, sent, zero = (
            sum(disk[key] for disk in job["disks"]) for key in ("bytes_read", "bytes_sent", "bytes_zero")
        )
        capacity = sum(disk["capacity_bytes"] for disk in job["disks"])
        kind = " and ".join(sorted({disk["mode"] for disk in job["disks"]}))
        transfer = seconds_of(next(step for step in job["steps"] if step["name"] == "replicating"), "started_at")
        fact(
            f"{kind}: read {mebibytes(read)}, sent {mebibytes(sent)}, skipped {mebibytes(capacity - sent)} of "
            f"{mebibytes(capacity)} ({mebibytes(zero)} as holes)"
        )
        fact(
            f"transfer {transfer:.1f} s, {mebibytes(int(sent / transfer))}/s; "
            f"{seconds_of(job, 'created_at'):.1f} s from the request to the proof"
        )

    def _torn(self, disk: dict[str, Any]) -> str | None:
        volume = self.volumes.volume(disk["volume_id"])
        return volume["persistent_name"] if volume["content"]["state"] == "torn" else None

    def _second_opinion(self) -> None:
        """Compare with a program that is not ours, and check the file system in the volume."""
        for disk, source in zip(self.disks, (self.machine.system_disk, self.machine.data_disk), strict=True):
            path = self.volumes.volume(disk["volume_id"])["device_path"]
            run("qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", str(source), path)
            fact(f"qemu-img compare: {disk['disk_id']} and its volume are identical")
        system = Path(self.volumes.volume(self.disks[0]["volume_id"])["device_path"])
        check = subprocess.run(["e2fsck", "-fn", system], capture_output=True, text=True, check=False)
        if check.returncode:
            raise SystemExit(f"e2fsck -fn {system} found errors:\n{check.stdout}")
        fact(f"e2fsck -fn: {check.stdout.strip().splitlines()[-1]}")


def seconds_of(part: dict[str, Any], begin: str) -> float:
    """How long a job or a step took."""
    return (datetime.fromisoformat(part["completed_at"]) - datetime.fromisoformat(part[begin])).total_seconds()

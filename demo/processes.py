"""The four processes of the appliance and the source, each started as an operator's units would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from demo.machine import is_listening, wait_until

__all__ = ["Appliance", "Process"]

BIN = Path(sys.executable).parent
AGENT_PORT = 8081
CONTROL_PORT = 8082


@dataclass
class Process:
    """One process: how to start it, when it is ready, its log."""

    name: str
    argv: list[str]
    log: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    handle: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.handle is not None
        return self.handle.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            environment = {**os.environ, **self.environment}
            self.handle = subprocess.Popen(self.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            wait_until(self.ready, self.handle)
        except SystemExit as failure:
            tail = "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-15:])
            raise SystemExit(f"{self.name} did not start: {failure}\n{tail}") from None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.handle is not None
        self.handle.kill()
        self.handle.wait()

    def stop(self) -> None:
        if self.handle is None or self.handle.poll() is not None:
            return
        self.handle.send_signal(signal.SIGTERM)
        try:
            self.handle.wait(15)
        except subprocess.TimeoutExpired:
            self.handle.kill()
            self.handle.wait()


class Appliance:
    """`omavol serve`, `omavol daemon`, `omavol agent` and `omactl serve` under one directory."""

    def __init__(self, state: Path, inventory: Path, *, agent_port: int = AGENT_PORT, port: int = CONTROL_PORT) -> None:
        self.state = state
        self.url = f"http://127.0.0.1:{port}"
        self.agent_url = f"http://127.0.0.1:{agent_port}"
        for part in ("nbd", "daemon", "agent", "omactl", "log"):
            (state / part).mkdir(parents=True, exist_ok=True)
        self.volumes_socket = state / "daemon/volumes.sock"
        nbd, control, volumes = f"{state}/nbd/nbd.sock", f"{state}/nbd/control.sock", self.volumes_socket
        token_file = f"{state}/agent/token"
        self.serve = self._process(
            f"omavol serve --unix {nbd} --control {control} --user nobody",
            lambda: is_listening(nbd),
        )
        self.daemon = self._process(
            f"omavol daemon --state {state}/daemon --unix {volumes} --control {control}",
            lambda: is_listening(volumes),
        )
        self.agent = self._process(
            f"omavol agent --inventory {inventory} --state {state}/agent --token-file {token_file} --port {agent_port}",
            lambda: answers(f"{self.agent_url}/api/v1/health"),
        )
        self.omactl = self._process(
            f"omactl serve --port {port} --state {state}/omactl --omavol {volumes}"
            f" --source local={self.agent_url} --source-token-file {token_file}",
            lambda: answers(f"{self.url}/health"),
        )

    def _process(self, command: str, ready: Callable[[], bool]) -> Process:
        """`command` holds no blanks but those between arguments: every path in it is ours."""
        program, verb, *options = command.split()
        log = self.state / "log" / f"{program}-{verb}.log"
        return Process(f"{program} {verb}", [str(BIN / program), verb, *options], log, ready)

    @property
    def processes(self) -> tuple[Process, ...]:
        return (self.serve, self.daemon, self.agent, self.omactl)

    @property
    def token(self) -> str:
        """The admin token that the first start of omactl wrote."""
        return (self.state / "omactl/admin-token").read_text().strip()

    def start(self) -> None:
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=2).status_code == 200
    except httpx2.TransportError:
        return False

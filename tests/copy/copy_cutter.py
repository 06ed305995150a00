"""A relay between a client and its server that cuts connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Cutter:
    """A relay that cuts the first connections after so many bytes to the server."""

    def __init__(self, place: str, listener: socket.socket, cuts: list[int]) -> None:
        self.place, self.listener, self.cuts = place, listener, cuts
        self.carried: list[int] = []
        self.threads: list[threading.Thread] = []
        self._run(self.accept)

    def _run(self, target, *arguments) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        self.threads.append(thread)
        return thread

    def accept(self) -> None:
        while True:
            try:
                here, _ = self.listener.accept()
            except OSError:
                return  # the test is over
            self.carried.append(0)
            self._run(self.relay, here, len(self.carried) - 1)

    def relay(self, here: socket.socket, number: int) -> None:
        with here, socket.socket(socket.AF_UNIX) as there:
            there.connect(self.place)
            back = self._run(self.pump, there, here, None)
            self.pump(here, there, number)
            back.join(10)

    def pump(self, source: socket.socket, target: socket.socket, number: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if number is not None:
                    self.carried[number] += len(data)
                    if number < len(self.cuts) and self.carried[number] > self.cuts[number]:
                        break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

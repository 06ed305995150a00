"""A client with one fault, for the judge: reads a block by simple replies, and leaves by DISC unless that is its fault.

faulty_client.py URI FAULT
"""

import os
import signal
import socket
import struct
import sys
import time
from urllib.parse import parse_qs, urlsplit

uri, fault = sys.argv[1:]
GO, LIST, STRUCTURED, READ, DISC, FLUSH, STATUS = 7, 3, 8, 0, 2, 3, 7


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def request(command, offset=0, length=0, flags=0, magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, 1, offset, length)


with socket.socket(socket.AF_UNIX) as server:
    server.settimeout(5)
    server.connect(parse_qs(urlsplit(uri).query)["socket"][0])

    def hear(size):
        return server.recv(size, socket.MSG_WAITALL)

    def answer():
        while True:
            _, _, kind, length = struct.unpack(">QIII", hear(20))
            hear(length)
            if kind == 1 or kind & 1 << 31:
                return kind

    hear(18)
    server.sendall(struct.pack(">I", 1 << 8 | 3 if fault == "H2" else 3))
    if fault == "C13":
        server.sendall(option(LIST) + option(LIST))
        answer()
        answer()
    if fault == "C13 data":
        server.sendall(option(STRUCTURED, b"data"))
        answer()
    asked = (3, 3) if fault == "C13 twice" else (3,)
    server.sendall(option(GO, struct.pack(f">IH{len(asked)}H", 0, len(asked), *asked)))
    answer()
    wrong = {
        "C10": request(FLUSH, 512),
        "C14": request(READ, 0, 512, 1 << 7),
        "C14 DF": request(READ, 0, 512, 4),
        "C15": request(READ, (4 << 20) - 256, 512),
        "C16": request(READ, 0, (1 << 25) + 1),
        "C17": request(STATUS, 0, 512),
        "X5": request(READ, 0, 512, magic=7),
    }
    server.sendall(wrong.get(fault, request(READ, 0, 512)))
    (error,) = struct.unpack(">4xI8x", hear(16) or bytes(16))
    hear(0 if error or fault in wrong else 512)
    if fault == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        time.sleep(60)
    if fault != "C7":
        server.sendall(request(DISC) + (b"more" if fault == "C9" else b""))
    sys.exit(1 if fault == "status" else 0)

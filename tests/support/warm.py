"""`staff` without the seconds that its libraries take to import: python warm.py SOCKET

Imports them once; then every command is a process of its own, forked from this one, with the caller's
arguments, folder, environment and standard streams. So a page of commands is run by a real shell as
real processes, and costs what the commands compute. Linux.

Nothing is computed in this process before a fork: threads of OpenMP would not survive one.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

# What a user's PATH gets as `staff`: hands its command to the server, and ends as that did.
CLIENT = """\
#!{python} -ISB
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
told = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps(told).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(16) or 99))
"""


def serve(address: str) -> None:
    """Answer commands until standard input ends; READY is printed when the libraries are there."""
    from staff import pipeline, single  # noqa: F401 - torch, transformers, datasets
    from staff.compare import run  # noqa: F401
    from staff.planning import estimate  # noqa: F401
    from staff.training import trainer  # noqa: F401 - TRL, PEFT

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("READY", flush=True)
        for caller in callers(listener, until=0):
            if os.fork() == 0:
                listener.close()
                answer(caller)
            caller.close()
            with contextlib.suppress(ChildProcessError):  # those that ended since
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass


def callers(listener: socket.socket, *, until: int) -> Iterator[socket.socket]:
    """Those who call, until what writes to this pipe is gone, however it ended."""
    while until not in select.select([listener, until], [], [])[0]:
        yield listener.accept()[0]


def answer(caller: socket.socket) -> None:
    """Do one command in this process, tell its exit code and end."""
    _, streams, _, _ = socket.recv_fds(caller, 1, 3)
    told = json.loads(b"".join(iter(lambda: caller.recv(65536), b"")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    if cache := os.environ.get("HF_HUB_CACHE"):
        constants.HF_HUB_CACHE = cache  # read when that library was imported
    sys.argv = ["staff", *told["arguments"]]
    code = 99
    try:
        from staff.cli.main import main

        code = main()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        caller.sendall(str(code).encode())
    os._exit(code)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Inside the block a server runs, and `folder` has a `staff` that speaks to it.

    Not off Linux: forks of a process with frameworks loaded are not safe there.
    """
    if sys.platform != "linux":
        yield
        return
    address = str(folder / "socket")
    with subprocess.Popen(
        [sys.executable, __file__, address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,  # ends with this process, if it is killed
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "READY\n", (
                "the server of tests/support did not start"
            )
            client = folder / "staff"
            text = CLIENT.format(python=sys.executable, address=address)
            client.write_text(text, encoding="utf-8")
            client.chmod(0o755)
            yield
        finally:
            server.kill()


if __name__ == "__main__":
    serve(sys.argv[1])

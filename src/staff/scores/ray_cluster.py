"""The Ray cluster of a run: joined or started when it begins to score, and left when it ends.

Ray is an extra of the package (``staff-coreset[ray]``), imported when it is needed.
"""

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from staff.errors import ConfigError, StaffError
from staff.models.folder import first_line

ADDRESS = "RAY_ADDRESS"  # where a cluster is that is to be joined; Ray's own variable
INSTALL = "--executor ray needs Ray: pip install 'staff-coreset[ray]'"


@contextmanager
def session() -> Iterator[None]:
    """A run that scores on Ray: a cluster that it joins or starts is left when it ends.

    Where $RAY_ADDRESS names one that is joined at once; else one is started on this machine when
    there is something to be scored. A connection of the caller's own is used and stays.

    Raises:
        ConfigError: Ray is not installed. StaffError: the cluster cannot be joined.
    """
    ray = imported()
    with ExitStack() as ending:
        _sessions.append(ending)
        ending.callback(_sessions.pop)
        if address_given() and not ray.is_initialized():
            connected(None)
        yield


_sessions: list[ExitStack] = []  # of the run in this process


def address_given() -> str | None:
    """Where a cluster is that is to be joined."""
    address = os.environ.get(ADDRESS, "")
    return None if address in ("", "local") else address


def connected(workers: int | None) -> Any:
    """The module `ray`, connected: to the caller's cluster, $RAY_ADDRESS, or a new one here."""
    ray = imported()
    if ray.is_initialized():
        return ray
    address = address_given()
    if address and "://" in address:
        raise ConfigError(
            f"{ADDRESS}={address}: Ray Client cannot be used; start staff on a machine of the "
            "cluster, e.g. with ray job submit"
        )
    options = {"address": address} if address else _of_this_machine(workers)
    if _level() > logging.INFO:
        _silence(ray, _sessions[-1])
    _sessions[-1].callback(ray.shutdown)  # of a start that is broken off, too
    try:
        if address:
            _knock(address)
        with _sigterm_kept(), _native_kept_quiet():
            ray.init(log_to_driver=False, logging_level=_level(), **options)
    except Exception as error:  # Ray's own are many
        what = f"cannot join a Ray cluster at {ADDRESS}={address}" if address else (
            "cannot start Ray here"
        )  # fmt: skip
        why = getattr(error, "strerror", None) or first_line(error)
        raise StaffError(f"{what}: {why}") from error
    return ray


def _silence(ray: Any, ending: ExitStack) -> None:
    """Let Ray print nothing until the end: what matters to a user is told by `Told`."""
    log = logging.getLogger("ray.data")
    ending.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)
    # Else a thread of its prints to standard output that a worker died, with or without logs.
    ending.callback(setattr, ray._private.worker, "_worker_logs_enabled", True)
    ray._private.worker._worker_logs_enabled = False


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()


def _of_this_machine(workers: int | None) -> dict[str, Any]:
    """Options of a cluster that serves one run: nothing of it is sent anywhere or left behind."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray lets nobody without a token use its ports; one from here it need not keep in ~/.ray.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Sockets lie in it, whose paths may not be long: not in $TMPDIR.
    place = tempfile.TemporaryDirectory(
        prefix="staff-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp"), ignore_cleanup_errors=True
    )
    import torch

    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": max(workers or torch.cuda.device_count(), torch.get_num_threads()),
        "_temp_dir": _sessions[-1].enter_context(place),
    }


def check_installed() -> None:
    """Raise `ConfigError` if there is no Ray to import."""
    if find_spec("ray") is None:
        raise ConfigError(INSTALL)


def imported() -> Any:
    """The module `ray`, with its `data`."""
    if _level() > logging.INFO:  # what its native code says; it reads this once
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from error
    return ray


def _level() -> int:
    """What Ray may log here: errors, or all where the user wants to hear of the libraries."""
    talks = logging.getLogger().isEnabledFor(logging.INFO)
    return logging.INFO if talks else logging.ERROR


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own, which exits, in the place of the program's."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        if stop.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _native_kept_quiet() -> Iterator[None]:
    """While it connects, Ray's native code writes to standard error whatever its level is."""
    with ExitStack() as ending:
        if _level() > logging.INFO:
            with suppress(OSError):  # there is none
                kept = os.dup(2)
                ending.callback(os.close, kept)
                ending.callback(os.dup2, kept, 2)
                with Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), 2)
        yield

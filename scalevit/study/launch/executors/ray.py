"""Nodes as tasks of a Ray cluster: an existing one by its address, or one that is started here."""

from __future__ import annotations

import importlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from scalevit.config.result import CHECK_FAILED, DONE, RESUMABLE
from scalevit.study.design import grid
from scalevit.study.launch.attempt import Attempt

#: What a task holds unless told otherwise, in Ray's words.
DEFAULTS: dict[str, Any] = {"num_cpus": 1}

#: What `--cluster` may say: where the cluster is, and what each task holds.
OPTIONS = ("address", "num_cpus", "num_gpus", "memory", "resources")

#: Seconds in which a cluster's address must answer.
CONNECT_SECONDS = 10.0


def run_attempt(one: Attempt) -> int:
    """The task. Ray cancels it by an interrupt, which whatever a shell started in the background ignores, and
    so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return one.run()


class RayCluster:
    """workers: tasks at a time, 0 for as many as the cluster holds. options: `address` of a running cluster,
    else one of this machine; the others are resources of each task. A cluster started here ends with the
    launcher, and what ran on it goes on from its last checkpoint.

    Raises ValueError when the cluster does not answer or an option is unknown."""

    name = "ray"

    def __init__(self, workers: int, options: Mapping[str, Any]) -> None:
        unknown = [key for key in options if key not in OPTIONS]
        if unknown:
            raise ValueError(f"--cluster: ray knows no {', '.join(unknown)}; known: {', '.join(OPTIONS)}")
        held = {**DEFAULTS, **options}
        address = held.pop("address", None)
        self.workers, self.ray = workers, _connect(address)
        self.task, self.held = self.ray.remote(run_attempt), {"max_retries": 0, **held}
        self.tasks: dict[str, Any] = {}
        self.tries: dict[str, Attempt] = {}

    def choose(self, ready: Sequence[grid.Node], running: Sequence[grid.Node]) -> list[grid.Node]:
        return [*ready][: max(0, self.workers - len(running)) if self.workers else None]

    def start(self, tries: Sequence[Attempt]) -> Mapping[str, str]:
        for one in tries:
            self.tries[one.name] = one
            self.tasks[one.name] = self.task.options(name=one.name, **self.held).remote(one)
        return dict.fromkeys((one.name for one in tries), "")

    def ended(self) -> Mapping[str, int]:
        waiting = [*self.tasks.values()]
        ready = self.ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []
        names = [name for name, task in self.tasks.items() if task in ready]
        return {name: self._status(name, self.tasks.pop(name)) for name in names}

    def _status(self, name: str, task: Any) -> int:
        from ray.exceptions import RayError, TaskCancelledError

        one = self.tries[name]
        try:
            return self.ray.get(task)
        except TaskCancelledError:
            return RESUMABLE
        except RayError as error:
            if one.finished(one.home):
                return DONE
            one.log.parent.mkdir(exist_ok=True)
            with one.log.open("a") as log:
                log.write(f"ray: {error}\n")
            return CHECK_FAILED

    def stop(self, kill: bool) -> None:
        for task in self.tasks.values():
            self.ray.cancel(task, force=kill)


def _connect(address: str | None) -> Any:
    """Ray, connected and quiet; it reports nothing to its makers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ValueError('the ray executor needs Ray: pip install "scalevit[ray]"') from None
    if address and ":" in address:
        _reach(address)
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if not address:
        quiet["include_dashboard"] = False
    try:
        if not ray.is_initialized():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _absent(address or "here", error) from None
    return ray


def _reach(address: str) -> None:
    """Whether anybody listens there, in seconds; Ray itself asks for minutes."""
    host, _, port = address.rpartition("://")[2].partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _absent(address, error) from None


def _absent(where: str, error: Exception) -> ValueError:
    said = " ".join(str(error).split())[:200]
    return ValueError(f"no Ray cluster at {where}: {said}; look at `ray status`, or leave the address out")

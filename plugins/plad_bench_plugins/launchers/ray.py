"""The launcher `ray`: slots on a Ray cluster, or under a Ray of this machine's own.

A stage is a remote task that holds what its slot consists of, and that starts the worker of GPU slots: a fresh
interpreter, which ends with the task. Ray retries nothing, for the engine does. All nodes must see the store.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plad_bench import Launcher, LauncherSession, LaunchOptions, Params, StageProcess, param
from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.contract.files import unwritable
from plad_bench.execute import provenance
from plad_bench_plugins.launchers import local
from plad_bench_plugins.launchers._together import Together

_ANSWER_S = 300
"""How long a node may take to say what it sees. The first task on a node starts a Python there."""


class RayParams(Params):
    """Which Ray, and what of it."""

    address: str = param("", private=True)
    """Of a running cluster, or auto; empty for RAY_ADDRESS, or without that a Ray that ends with the run."""
    gpus: int | None = param(None, ge=0)
    """GPUs to use, each a slot; 0 stays on CPUs. None for all that the nodes declare."""
    resource: str = param("")
    """A custom resource: each slot takes 1 of it, so only nodes that declare it are used."""


class RaySession(LauncherSession):
    """Slots on the nodes of a Ray."""

    def __init__(self, params: RayParams, options: LaunchOptions) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingError("launcher ray needs the package ray", "pip install 'plad-bench[ray]'") from error
        self._ray: Any = ray
        self._threads = options.threads
        self._running: list[StageProcess] = []
        _connect(ray, params, options)
        try:
            gpus = params.gpus != 0 and (params.gpus or any("GPU" in n["Resources"] for n in self._nodes()))
            self.device = "cuda:0" if gpus else "cpu"
            self._slot = {"CPU": options.threads, **({"GPU": 1} if gpus else {})}
            self._slot |= {params.resource: 1} if params.resource else {}
            self.slots = self._room(wanted=params.gpus or 1)
            if most := params.gpus if gpus else options.workers:
                self.slots = min(self.slots, most)
            self._see(options.store)
        except BaseException:
            ray.shutdown()
            raise

    def start(self, job: Path, log: Path, slots: Sequence[int]) -> StageProcess:
        """Submit a task for each slot; those of several ranks begin when there is room for all."""
        self._room(wanted=len(slots))  # nodes that have left since would be waited for, for ever
        process = self._task(job, log, 0) if len(slots) == 1 else self._gang(job, log, len(slots))
        self._running = [p for p in self._running if p.poll() is None] + [process]
        return process

    def close(self) -> None:
        """Cancel what runs, and leave the cluster."""
        for process in self._running:
            process.kill()
        self._ray.shutdown()

    def _task(self, job: Path, log: Path, rank: int, **place: Any) -> StageProcess:
        own = {name: amount for name, amount in self._slot.items() if name not in {"CPU", "GPU"}}
        resources = {"num_cpus": self._slot["CPU"], "num_gpus": self._slot.get("GPU", 0), "resources": own}
        work = self._ray.remote(_work).options(**resources, **place, max_retries=0)
        return _Task(self._ray, work.remote(str(job), str(log), rank, self._threads), log)

    def _gang(self, job: Path, log: Path, count: int) -> StageProcess:
        """The ranks of a stage, whose slots are reserved all at once, or two runs could each wait for the other's."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = self._ray.util.placement_group([dict(self._slot)] * count, strategy="PACK")
        tasks = [
            self._task(
                job,
                log,
                rank,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            )
            for rank in range(count)
        ]
        return _Gang(tasks, lambda: self._ray.util.remove_placement_group(group))

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _useful(self) -> list[Mapping[str, Any]]:
        return [node for node in self._nodes() if _fits(node, self._slot)]

    def _room(self, wanted: int) -> int:
        """How many slots the nodes have, busy or not.

        Raises:
            MissingError: if that is less than what is wanted: tasks would wait for ever.
        """
        room = sum(_fits(node, self._slot) for node in self._nodes())
        if room < wanted:
            shown = {name: sum(n["Resources"].get(name, 0) for n in self._nodes()) for name in self._slot}
            raise MissingError(
                f"this Ray has no room for {wanted} x ({_told(self._slot)}): its nodes declare {_told(shown)}",
                "Lower --threads or ray[gpus=...], or declare what nodes have: "
                "ray start --num-cpus, --num-gpus, --resources.",
            )
        return room

    def _see(self, store: Path) -> None:
        """Have every node that has a slot find the store, and this very plad-bench."""
        token = secrets.token_hex(8)
        probe = store / f".probe-{token}"
        try:
            store.mkdir(parents=True, exist_ok=True)
            probe.write_text(token)
        except OSError as error:
            raise unwritable(store, error) from error
        try:
            asked = {self._probe(node, probe): node for node in self._useful()}
            for answer, node in asked.items():
                self._judge(node, answer, token, store)
        finally:
            probe.unlink(missing_ok=True)

    def _probe(self, node: Mapping[str, Any], probe: Path) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = self._ray.remote(_prober()).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        return ask.remote(str(probe))

    def _judge(self, node: Mapping[str, Any], answer: Any, token: str, store: Path) -> None:
        name = node["NodeManagerHostname"]
        try:
            seen, code = self._ray.get(answer, timeout=_ANSWER_S)
        except self._ray.exceptions.RayError as error:
            raise MissingError(f"node {name} of this Ray cannot run a task: {_line(error)}", "See its logs.") from error
        if seen != token:
            raise MissingError(
                f"node {name} of this Ray does not see the store {store}",
                "Put it where all nodes see it under the same path (--store), or keep to nodes that do: "
                "ray start --resources there, and ray[resource=...].",
            )
        if code != provenance.code_hash():
            found = "another plad-bench" if len(code) == len(provenance.code_hash()) else f"no plad-bench ({code})"
            raise MissingError(
                f"node {name} of this Ray has {found}",
                "Install the same version in the environment that `ray start` is called from.",
            )


class _Task(StageProcess):
    """A worker, in a Ray task."""

    def __init__(self, ray: Any, task: Any, log: Path) -> None:
        self._ray, self._task, self._log = ray, task, log
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._ray.wait([self._task], timeout=0)[0]:
            self._code = self._outcome()
        return self._code

    def kill(self) -> None:
        if self.poll() is None:
            self._ray.cancel(self._task, force=True)
            self._ray.wait([self._task], timeout=30)

    def _outcome(self) -> int:
        """Whatever takes a task down from outside counts as a kill, which the engine retries."""
        failed = self._ray.exceptions
        try:
            return int(self._ray.get(self._task))
        except (failed.WorkerCrashedError, failed.NodeDiedError, failed.OutOfMemoryError) as error:
            self._say(error)
            return -signal.SIGKILL
        except failed.RayError as error:
            self._say(error)
            return 1

    def _say(self, error: Exception) -> None:
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(f"ray: {error}\n")


class _Gang(Together):
    """Ranks that give back their reservation when they are done."""

    def __init__(self, ranks: Sequence[StageProcess], release: Callable[[], None]) -> None:
        super().__init__(ranks)
        self._release = release

    def kill(self) -> None:
        super().kill()
        self._release()


def _connect(ray: Any, params: RayParams, options: LaunchOptions) -> None:
    address = params.address or os.environ.get("RAY_ADDRESS", "") or "local"
    if address.startswith("ray://"):
        raise UsageError(
            f"launcher ray cannot drive a cluster from outside ({address})",
            "Run plad-bench on one of its nodes, with address=auto.",
        )
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        slots = local.room(options)
        quiet |= {"num_cpus": slots * options.threads, "num_gpus": len(options.gpus), "include_dashboard": False}
        if options.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([local.visible(gpu) for gpu in options.gpus])
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MissingError(
            f"no Ray at {address}: {_line(error)}",
            "Start it (ray start --head), or leave ray[address=...] and RAY_ADDRESS away; "
            "a Ray that asks for a token wants RAY_AUTH_MODE=token.",
        ) from error


def _fits(node: Mapping[str, Any], slot: Mapping[str, float]) -> int:
    return min(int(node["Resources"].get(name, 0) // amount) for name, amount in slot.items())


def _told(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items())


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _prober() -> Any:
    """What a node sees at a path, and the hash of its plad-bench, or why there is none."""

    # Made here, so that it travels whole: a node need not have this module.
    def probe(path: str) -> tuple[str, str]:
        import subprocess
        import sys
        from pathlib import Path

        code = "from plad_bench.execute import provenance; print(provenance.code_hash())"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        told = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines()
        try:
            return Path(path).read_text(), told[-1]
        except OSError:
            return "", told[-1]

    return probe


def _work(job: str, log: str, rank: int, threads: int) -> int:
    """In a task: start the worker, which ends when this process does, and return its exit code."""
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with local.fresh(Path(job), Path(log), rank, environment) as process:
        return process.wait()


RECORDS = (
    Launcher(
        name="ray",
        summary="Slots on the nodes of a Ray cluster, or under a Ray of this machine's own.",
        params=RayParams,
        open=RaySession,
    ),
)

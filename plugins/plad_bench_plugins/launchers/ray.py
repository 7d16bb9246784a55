"""The launcher `ray`: slots on a Ray cluster, or on a local Ray instance.

A stage is a remote task that reserves the resources of its slot and starts the worker in a new interpreter, which ends
with the task. Ray does not retry tasks, because the engine does. All nodes must be able to access the store.
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
"""Time limit for the probe of a node. The first task on a node starts a Python process there."""


class RayParams(Params):
    """The Ray cluster and its resources."""

    address: str = param("", private=True)
    """Address of a running cluster, or auto; empty for RAY_ADDRESS or, if that is unset, a local instance that ends
    with the run."""
    gpus: int | None = param(None, ge=0)
    """Number of GPUs to use, one per slot; 0 uses CPUs. None for all that the nodes declare."""
    resource: str = param("")
    """A custom resource. Each slot takes 1 unit, so only nodes that declare it are used."""


class RaySession(LauncherSession):
    """Slots on the nodes of a Ray cluster."""

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
        """Submit a task per slot; the tasks of several ranks start when all of them fit."""
        self._room(wanted=len(slots))  # if nodes have left, the tasks would wait forever
        process = self._task(job, log, 0) if len(slots) == 1 else self._gang(job, log, len(slots))
        self._running = [p for p in self._running if p.poll() is None] + [process]
        return process

    def close(self) -> None:
        """Cancel all running stages, and disconnect from the cluster."""
        for process in self._running:
            process.kill()
        self._ray.shutdown()

    def _task(self, job: Path, log: Path, rank: int, **place: Any) -> StageProcess:
        own = {name: amount for name, amount in self._slot.items() if name not in {"CPU", "GPU"}}
        resources = {"num_cpus": self._slot["CPU"], "num_gpus": self._slot.get("GPU", 0), "resources": own}
        work = self._ray.remote(_work).options(**resources, **place, max_retries=0)
        return _Task(self._ray, work.remote(str(job), str(log), rank, self._threads), log)

    def _gang(self, job: Path, log: Path, count: int) -> StageProcess:
        """The ranks of a stage, with slots that are reserved together, so that runs cannot deadlock."""
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
        """The number of slots on all nodes, used or free.

        Raises:
            MissingError: if there are fewer than `wanted`, because tasks would wait forever.
        """
        room = sum(_fits(node, self._slot) for node in self._nodes())
        if room < wanted:
            shown = {name: sum(n["Resources"].get(name, 0) for n in self._nodes()) for name in self._slot}
            raise MissingError(
                f"the Ray cluster has too few resources for {wanted} x ({_told(self._slot)}): its nodes declare "
                f"{_told(shown)}",
                "Lower --threads or ray[gpus=...], or declare the resources of the nodes: "
                "ray start --num-cpus, --num-gpus, --resources.",
            )
        return room

    def _see(self, store: Path) -> None:
        """Check that every node with a slot can access the store and has the same version of plad-bench."""
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
            raise MissingError(f"Ray node {name} cannot run a task: {_line(error)}", "Check its logs.") from error
        if seen != token:
            raise MissingError(
                f"Ray node {name} cannot access the store {store}",
                "Choose a --store that all nodes can access under the same path, or use only nodes that can: "
                "ray start --resources there, and ray[resource=...].",
            )
        if code != provenance.code_hash():
            found = (
                "another version of plad-bench"
                if len(code) == len(provenance.code_hash())
                else f"no plad-bench ({code})"
            )
            raise MissingError(
                f"Ray node {name} has {found}",
                "Install the same version in the environment from which `ray start` is called.",
            )


class _Task(StageProcess):
    """A worker in a Ray task."""

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
        """The exit code. A task that ended for external reasons counts as killed, and the engine retries it."""
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
    """Ranks that release their reservation at the end."""

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
            f"launcher ray does not support Ray Client addresses ({address})",
            "Run plad-bench on a node of the cluster, with address=auto.",
        )
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
        slots = local.room(options)
        quiet |= {"num_cpus": slots * options.threads, "num_gpus": len(options.gpus), "include_dashboard": False}
        if options.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([local.visible(gpu) for gpu in options.gpus])
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MissingError(
            f"cannot connect to Ray at {address}: {_line(error)}",
            "Start it (ray start --head), or leave out ray[address=...] and unset RAY_ADDRESS. "
            "A cluster with token authentication needs RAY_AUTH_MODE=token.",
        ) from error


def _fits(node: Mapping[str, Any], slot: Mapping[str, float]) -> int:
    return min(int(node["Resources"].get(name, 0) // amount) for name, amount in slot.items())


def _told(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items())


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _prober() -> Any:
    """A function that returns a node's content of a file, and the hash of its plad-bench or an error."""

    # A local function is serialised completely, so that nodes do not need this module.
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
    """Run in a task: start the worker, which exits when this process ends, and return its exit code."""
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with local.fresh(Path(job), Path(log), rank, environment) as process:
        return process.wait()


RECORDS = (
    Launcher(
        name="ray",
        summary="Slots on the nodes of a Ray cluster, or on a local Ray instance.",
        params=RayParams,
        open=RaySession,
    ),
)

"""The engine: a ready queue over the stage graph, with retries; a failure affects only the goals that need the stage.

It works backwards from the requested stages, so it computes no intermediate that nothing needs.
"""

from __future__ import annotations

import json
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plad_bench.contract import hub
from plad_bench.contract.errors import PladBenchError, UsageError
from plad_bench.contract.files import unwritable
from plad_bench.contract.launching import LauncherSession, StageProcess
from plad_bench.contract.money import Budget
from plad_bench.execute.store import Artifact, Store
from plad_bench.plan.stage import Stage, walk

_TICK_S = 0.25
"""Time between two reports of progress."""


@dataclass(frozen=True)
class Failure:
    """Why a stage has no artifact."""

    stage: str
    message: str
    log: Path | None
    missing: bool = False
    """A prerequisite is absent (exit code 3)."""
    budget: bool = False
    """The run's budget is spent (exit code 6). Nothing is wrong, and nothing is recorded."""
    skipped: bool = False
    """The cell cannot be computed under its protocol, and is recorded as skipped."""


@dataclass
class Running:
    """A stage that occupies slots."""

    stage: Stage
    process: StageProcess
    job: Path
    log: Path
    slots: Sequence[int]
    began: float

    def progress(self) -> dict[str, float]:
        """The progress that the stage reported last."""
        try:
            return json.loads(self.job.with_suffix(".progress").read_text())  # type: ignore[no-any-return]
        except (OSError, ValueError):
            return {}


@dataclass(frozen=True)
class Options:
    """Limits of a run."""

    retries: int = 1
    max_failures: int = 0
    """Stop scheduling new work after this many failed stages; 0: never."""
    timeout_s: float = 0.0
    """Kill a stage after this many seconds; 0: never."""
    max_cost: float = 0.0
    """Limit of what all stages may spend; 0: no limit."""


class Watcher:
    """Callbacks that an observer of the engine may override."""

    def stage_started(self, running: Running) -> None:
        """A stage started."""

    def stage_finished(self, stage: Stage, artifact: Artifact | None, failure: Failure | None) -> None:
        """A stage was computed, or failed."""

    def stage_retried(self, stage: Stage, failure: Failure) -> None:
        """A stage was interrupted for the reason given, and starts again."""

    def tick(self, running: Sequence[Running], waiting: Sequence[Stage]) -> None:
        """Called a few times a second."""


@dataclass
class Engine:
    """Runs stages in the slots of a launcher session."""

    store: Store
    open_session: Callable[[], LauncherSession]
    """Called when the first stage has to run, so that a run without work starts no workers."""
    run_directory: Path
    threads: int
    plugins: Sequence[Path] = ()
    options: Options = field(default_factory=Options)
    watcher: Watcher = field(default_factory=Watcher)
    ranks: int = 1
    """Slots of a training, with one process in each."""
    shard: bool = False
    """Whether these processes divide the trained model among them."""
    teacher_gpus: int = 1
    """Slots of a stage in which vLLM runs the teacher."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _waiting: dict[str, Stage] = field(default_factory=dict)
    _goals: Sequence[Sequence[Stage]] = ()

    def run(self, goals: Sequence[Sequence[Stage]], settled: Callable[[], None]) -> None:
        """Compute the stages of each goal; `settled` is called whenever a stage ends. Results: `artifacts`, `failures`.

        When a stage of a goal fails, the goal is given up, together with every stage that no other goal needs.

        Raises:
            UsageError: if the launcher has fewer slots than a training needs.
        """
        self._goals = goals
        for stage in (stage for goal in goals for stage in goal):
            self._need(stage)
        settled()
        if not self._waiting:
            return
        if self.options.max_cost:
            Budget(self.spent_file).open()
        session = self.open_session()
        running: list[Running] = []
        told = 0.0
        try:
            for option, wanted in {"--ranks": self.ranks, "--teacher-gpus": self.teacher_gpus}.items():
                if session.slots < wanted:
                    raise UsageError(
                        f"{option} {wanted} needs {wanted} slots; {session.slots} are available",
                        f"Lower {option}, or provide more GPUs (--gpus) or CPU slots (--workers).",
                    )
            self.watcher.tick(running, list(self._waiting.values()))  # the first stage may take long to start
            self._fill(session, running)
            while running:
                session.wait(_TICK_S)
                ended = [r for r in running if self._ended(r)]
                for one in ended:
                    running.remove(one)
                    self._settle(one)
                if ended:
                    settled()
                    self._fill(session, running)  # only now: to find the ready stages of a large run takes long
                if time.monotonic() - told >= _TICK_S:
                    told = time.monotonic()
                    self.watcher.tick(running, list(self._waiting.values()))
            if self._waiting:
                self._abandon()
                settled()
        finally:
            session.close()

    @property
    def spent_file(self) -> Path:
        """The file that counts spending. It is outside the run's directory, which is deleted some day."""
        return self.store.spent / self.run_directory.name

    # ---------------------------------------------------------------------------------------------------- demand

    def _need(self, stage: Stage) -> None:
        if stage.key in self.artifacts or stage.key in self._waiting or stage.key in self.failures:
            return
        artifact = self.store.find(stage.key)
        if artifact is not None:
            self.artifacts[stage.key] = artifact
            return
        for parent in stage.inputs.values():
            self._need(parent)
        self._waiting[stage.key] = stage

    def _ready(self) -> list[Stage]:
        return [s for s in self._waiting.values() if all(p.key in self.artifacts for p in s.inputs.values())]

    def _give_up(self) -> None:
        """Drop stages that only failed goals need."""
        self._fail_dependents()
        alive = [goal for goal in self._goals if not any(stage.key in self.failures for stage in goal)]
        useful = {stage.key for stage in walk(stage for goal in alive for stage in goal)}
        self._waiting = {key: stage for key, stage in self._waiting.items() if key in useful}

    def _fail_dependents(self) -> None:
        changed = True
        while changed:
            changed = False
            for stage in list(self._waiting.values()):
                broken = next((self.failures[p.key] for p in stage.inputs.values() if p.key in self.failures), None)
                if broken is not None:
                    del self._waiting[stage.key]
                    self.failures[stage.key] = broken
                    changed = True

    # ----------------------------------------------------------------------------------------------------- slots

    def _fill(self, session: LauncherSession, running: list[Running]) -> None:
        limit = self.options.max_failures
        if limit and len({f.log for f in self.failures.values()}) >= limit:
            return
        taken = {slot for r in running for slot in r.slots}
        free = [slot for slot in range(session.slots) if slot not in taken]
        for stage in self._ready():
            wanted = self._ranks(stage)
            if wanted > len(free):  # stages behind it wait too, or small ones could keep a large one waiting forever
                break
            slots, free = free[:wanted], free[wanted:]
            del self._waiting[stage.key]
            one = self._start(session, stage, slots)
            running.append(one)
            self.watcher.stage_started(one)

    def _ranks(self, stage: Stage) -> int:
        return self.ranks if stage.operation == "train" else self.teacher_gpus if stage.parallel else 1

    def _start(self, session: LauncherSession, stage: Stage, slots: Sequence[int]) -> Running:
        name = f"{stage.name}-{stage.key[:12]}"
        job, log = self.run_directory / f"{name}.job", self.run_directory / f"{name}.log"
        document = {
            "store": str(self.store.root),
            "shipped": [str(p) for p in self.store.shipped],
            "document": stage.document,
            "key": stage.key,
            "inputs": {role: parent.key for role, parent in stage.inputs.items()},
            "job": dict(stage.job),
            "plugins": [str(p) for p in self.plugins],
            "device": session.device,
            "threads": self.threads,
            "ranks": len(slots),
            "shard": self.shard and stage.operation == "train",
            "rendezvous_file": str(job.with_suffix(f".{secrets.token_hex(4)}.rendezvous")),
            "commits": hub.pins(),
            "spent": str(self.spent_file),
            "max_cost": self.options.max_cost,
        }
        try:
            job.parent.mkdir(parents=True, exist_ok=True)
            job.write_text(json.dumps(document))
            job.with_suffix(".error").unlink(missing_ok=True)  # of an earlier attempt
        except OSError as error:
            raise unwritable(job, error) from error
        return Running(stage, session.start(job, log, slots), job, log, slots, time.monotonic())

    def _ended(self, running: Running) -> bool:
        if running.process.poll() is not None:
            return True
        limit = self.options.timeout_s
        if limit and time.monotonic() - running.began > limit:
            running.process.kill()
            return True
        return False

    def _settle(self, running: Running) -> None:
        stage, code = running.stage, running.process.poll()
        artifact = self.store.find(stage.key)
        if artifact is not None:
            self.store.sweep_partial(stage.key)
            self.artifacts[stage.key] = artifact
            self.watcher.stage_finished(stage, artifact, None)
            return
        gone = [parent for parent in stage.inputs.values() if self.store.find(parent.key) is None]
        for parent in gone:  # the worker found it corrupt and put it in quarantine: compute it again
            self.artifacts.pop(parent.key, None)
        failure = self._failure(running, code)
        if gone:
            failure = Failure(stage.name, f"its input {gone[0].label} was corrupt; it is computed again", running.log)
        killed = code is not None and code < 0 and not self._timed_out(running)
        if (gone or killed) and self._again(stage):
            self.watcher.stage_retried(stage, failure)
            self._need(stage)
        else:
            self.failures[stage.key] = failure
            self.watcher.stage_finished(stage, None, failure)
            self._give_up()

    def _again(self, stage: Stage) -> bool:
        self._attempts[stage.key] = self._attempts.get(stage.key, 0) + 1
        return self._attempts[stage.key] <= self.options.retries

    def _timed_out(self, running: Running) -> bool:
        return bool(self.options.timeout_s) and time.monotonic() - running.began > self.options.timeout_s

    def _failure(self, running: Running, code: int | None) -> Failure:
        name, log = running.stage.name, running.log
        if self._timed_out(running):
            return Failure(name, f"was stopped after {self.options.timeout_s:g} s (--timeout)", log)
        if code is not None and code < 0:  # other ranks only report that they lost this one
            why = ", which the system does when it runs out of memory" if -code == signal.SIGKILL else ""
            return Failure(name, f"its process was killed by signal {-code}{why}", log)
        try:
            report: Mapping[str, str] = json.loads(running.job.with_suffix(".error").read_text())
        except (OSError, ValueError):
            return Failure(name, f"its process exited with code {code}", log)
        message = ". ".join(part.rstrip(".") for part in (report["message"], report["remedy"]) if part)
        flags = {flag: report["kind"] == flag for flag in ("missing", "budget", "skipped")}
        return Failure(name, message, log, **flags)

    def _abandon(self) -> None:
        for stage in self._waiting.values():
            self.failures[stage.key] = Failure(stage.name, "not started: --max-failures was reached", None)
        self._waiting.clear()


def raise_for(failure: Failure) -> None:
    """Raise the error of a command that needs the failed stage."""
    raise PladBenchError(f"{failure.stage}: {failure.message}", f"Log: {failure.log}" if failure.log else "")

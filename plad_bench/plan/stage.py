"""A stage: an operation, its specification, its inputs, and the key of its result."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from plad_bench.contract import rounds
from plad_bench.contract.renamed import STAGES

KEY_VERSION = 1
OPERATION_VERSION = {
    "ask": 1,
    "data": 2,
    "tokenizer": 1,
    "init": 1,
    "train": 1,
    "generate": 1,
    "pairs": 1,
    "reference": 1,
    "signals": 1,
    "score": 1,
}
"""Increase a version when the same specification would give another result."""
ACTIONS = {
    "ask": "generate {split} responses",
    "data": "prepare the data",
    "tokenizer": "train the tokenizer",
    "init": "initialise",
    "train": "train",
    "generate": "generate {split} responses",
    "pairs": "build the pairs",
    "reference": "compute the log-probabilities of the pairs",
    "signals": "compute the log-probabilities of {text} responses",
    "score": "score {metric}",
    "evaluate-samples": "sample {split} responses",
    "score-samples": "score {metric} of the samples",
}
"""What each operation does, for a reader; by name for a stage that another name distinguishes."""
TEACHER, UNTOUCHED, SFT_INIT = "teacher", "untouched student", "SFT initialisation"
"""Owners of stages that belong to no method."""

_KEYED_NAME = {name: before for before, name in STAGES.items()}
"""Renamed stages by their present names: keys have the original ones, so that they do not change."""


def stage_name(document: Mapping[str, Any]) -> str:
    """The stage name in a key's document."""
    said = str(document.get("stage", ""))
    return STAGES.get(said, said)


@dataclass(frozen=True)
class Stage:
    """A content-addressed step: an operation, its specification, and its input stages."""

    name: str
    """Its role in the protocol, such as teach, sft-init or distill."""
    operation: str
    """A key of OPERATION_VERSION."""
    spec: Mapping[str, Any]
    """JSON values that are part of the key."""
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    """Values for the worker that are not part of the key, such as local paths."""
    version: int = 0
    """Version of the operation; 0 for the current one."""
    owner: str = ""
    """Whose work it is, for a reader: `untouched student`, or the label of a method; not keyed."""

    @property
    def document(self) -> dict[str, Any]:
        """Everything that the result depends on; stored in full in the artifact's manifest."""
        return {
            "key_version": KEY_VERSION,
            "stage": _KEYED_NAME.get(self.name, self.name),
            "operation": self.operation,
            "operation_version": self.version or OPERATION_VERSION[self.operation],
            "spec": dict(self.spec),
            "inputs": {role: stage.key for role, stage in self.inputs.items()},
        }

    @property
    def label(self) -> str:
        """Readable name, such as "plad (seed 0): train" or "teacher: generate test responses"."""
        seeded = "" if self.seed is None else f" (seed {self.seed})"
        return f"{self.owner}{seeded}: {self.action}" if self.owner else self.action

    @property
    def action(self) -> str:
        """What it does, such as "train" or "generate test responses"."""
        metric, split = self.spec.get("metric", {}), str(self.spec.get("split", ""))
        said = ACTIONS.get(self.name, ACTIONS[self.operation]).format(
            split=split.replace("train", "training"), text=self.spec.get("text"), metric=metric.get("name")
        )
        percent = self.inputs.get("responses", self).spec.get("at")
        if percent:
            return f"{said} after {percent} % of the training"
        number = rounds.number(self.name)
        return f"{said}, round {number}" if number else said

    @property
    def seed(self) -> int | None:
        """The run's seed that it belongs to; None if it ignores that."""
        if self.owner == TEACHER or "seed" in self.spec:
            return None if self.owner == TEACHER else self.spec["seed"]
        made_by = self.inputs.get("model") or self.inputs.get("responses")
        return made_by.seed if made_by else None

    @property
    def parallel(self) -> bool:
        """Whether vLLM runs the teacher in it, which several GPUs can share."""
        return self.owner == TEACHER and self.spec.get("backend") == "vllm"

    @functools.cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of the document."""
        return digest(self.document)

    def walk(self) -> Iterator[Stage]:
        """This stage and all stages that it depends on, inputs first, each once."""
        return iter(walk([self]))


def walk(stages: Iterable[Stage]) -> list[Stage]:
    """Stages and all stages that they depend on, inputs first, each once."""
    met: set[str] = set()
    found = []

    def visit(stage: Stage) -> None:
        if stage.key not in met:
            met.add(stage.key)
            for _, parent in sorted(stage.inputs.items()):
                visit(parent)
            found.append(stage)

    for stage in stages:
        visit(stage)
    return found


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


def digest(document: Any) -> str:
    """sha256 of canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(document).encode()).hexdigest()

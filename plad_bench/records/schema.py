"""The schema of a cell's record.

Other programs read these keys, so they stay: schema, cell, key, status, seed, task.name, teacher.name,
student.name, method.name, method.params, metrics.<name>.{value, better, n, stderr}, cost, timing, provenance.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from plad_bench.contract.enums import BASELINES, OUTSIDE

SCHEMA = 2


_PART = r"""[^\x00-\x1f\x7f/\\:*?"<>|.][^\x00-\x1f\x7f/\\:*?"<>|]*"""

ShortText = Annotated[str, Field(min_length=1, max_length=300)]

FileName = Annotated[str, StringConstraints(pattern=rf"\A{_PART}\z", max_length=255)]
"""The plain name of a file: no directory, not hidden."""

CellId = Annotated[str, StringConstraints(pattern=rf"\A{_PART}(/{_PART})*\z", max_length=1000)]
"""A relative path with plain names only, so that no record can refer to a place outside its board."""

Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]

Percent = Annotated[str, StringConstraints(pattern=r"\A[1-9][0-9]?\z")]

Ids: TypeAlias = tuple[str, ...]
"""Ids of the examples of a scores file, in its order."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


class Named(_Part):
    """A resolved component: name, version, every parameter, and the distribution that provides it."""

    name: ShortText
    selector: str
    """As the user wrote it."""
    params: dict[str, Any]
    version: int
    plugin: str


class MethodPart(Named):
    """The method, with facts for readers of a board."""

    access: str
    paper: str
    lr: float
    """Peak learning rate."""
    lr_shared: bool
    """Whether it is the board's shared rate rather than the method's own."""
    control: bool = False
    """Whether it is a control, which is never ranked."""


class TaskPart(Named):
    """The task, with its data's licence."""

    licence: str
    redistributable: bool
    data_version: Annotated[int, Field(ge=1)] = 1
    """Version of the data stage that made its prompts and splits."""


class RangePart(_Part):
    """What was searched for one parameter, both ends included."""

    low: float
    high: float
    log: bool
    """Whether values were tried by their logarithm."""


class TrialPart(_Part):
    """One trial of a method's settings."""

    values: dict[ShortText, float | int]
    """Of the parameters that were searched; `lr` is the rate that was trained with."""
    score: float | None
    """Mean of the metric over the validation split; None if the trial failed."""
    reason: str = ""
    """Why it failed."""
    cost: dict[str, float] = {}
    """As in a record."""


class TuningPart(_Part):
    """How a method's settings were chosen."""

    metric: ShortText
    split: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Of every trial."""
    space: dict[ShortText, RangePart]
    """By parameter."""
    trials: Annotated[list[TrialPart], Field(min_length=1, max_length=10_000)]
    """In their order; the first one has the default settings."""
    best: Annotated[int, Field(ge=0)]
    """Number of the trial whose settings the cell has."""

    @model_validator(mode="after")
    def _points_at_a_trial(self) -> TuningPart:
        if self.best >= len(self.trials) or self.trials[self.best].score is None:
            msg = "best is not the number of a trial that has a score"
            raise ValueError(msg)
        return self


class SampledPart(_Part):
    """What a metric's values of several sampled responses per prompt were summarised by."""

    metric: ShortText
    """Label of the metric."""
    kind: Literal["avg", "pass", "set"]
    """The mean over the samples; the probability that one of k is correct; or a value of all samples together."""
    k: Annotated[int, Field(ge=1)]
    """Of pass@k; otherwise the number of samples."""


class PointPart(_Part):
    """The share of a training after which a metric scored the model."""

    metric: ShortText
    percent: Annotated[int, Field(ge=1, le=99)]


class MetricPart(_Part):
    """One metric of one cell, a statistic of it over sampled responses, or its value during the training."""

    value: float | None
    """Mean over the examples with a value; None if there are none."""
    better: Literal["higher", "lower"] | None
    n: Annotated[int, Field(ge=0)]
    stderr: float | None
    """Over examples, of this cell alone."""
    unit: str
    key: str
    """Key of the score stage."""
    sampled: SampledPart | None = None
    point: PointPart | None = None
    """None for a metric of the greedy responses."""


class ScoresPart(_Part):
    """The file of per-example values, and its hash."""

    file: FileName
    """Beside the record."""
    sha256: Sha256
    examples: Annotated[int, Field(ge=1, le=10_000_000)]


class SamplesPart(_Part):
    """The file of samples, and its hash."""

    file: FileName
    """Beside the record."""
    sha256: Sha256


class Sample(_Part):
    """A cell's response to one prompt."""

    example: ShortText
    """The id of the prompt, as in the scores."""
    prompt: str
    reference: str
    response: str


class Record(_Part):
    """One cell."""

    schema_: int = Field(SCHEMA, alias="schema")
    cell: CellId
    """Readable id, also the path of the record below cells/ (without .json)."""
    key: str
    """Key of the stage that generated the evaluated responses; empty for a skipped cell."""
    status: Literal["done", "failed", "skipped", "trial"]
    reason: str = ""
    """Why the cell failed or was skipped."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    task: TaskPart
    teacher: Named
    student: Named
    method: MethodPart
    pairs: Named | None = None
    tuning: TuningPart | None = None
    protocol: dict[str, Any]
    """The board's controlled conditions: budget, decoding, split, precision."""
    metrics: dict[str, MetricPart] = {}
    absent: dict[str, str] = {}
    """Label of a requested metric -> why the cell has no value of it."""
    scores: ScoresPart | None = None
    samples: SamplesPart | None = None
    points: dict[Percent, dict[str, float]] = {}
    """Percent of the training -> the parts of `cost` that differ there."""
    counts: dict[str, float] = {}
    """Numbers of items dropped, truncated or retokenised, and sizes of the data."""
    cost: dict[str, float] = {}
    timing: dict[str, float] = {}
    """Seconds of every stage that the cell rests on."""
    provenance: dict[str, Any] = {}

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants", populate_by_name=True
    )

    @property
    def is_baseline(self) -> bool:
        """Whether this is a baseline."""
        return self.method.name in (*BASELINES, OUTSIDE)

    @property
    def lineage(self) -> list[dict[str, Any]]:
        """Versions of code and packages behind the record: entries with `code`, `packages`, `stages`, `older`, `kept`.

        Empty in records of an older plad-bench. Invalid entries are left out.
        """
        entries, packages = self.provenance.get("lineage"), self.provenance.get("packages")
        return [{"packages": packages, **e} for e in (entries if isinstance(entries, list) else []) if _is_lineage(e)]

    def essence(self) -> dict[str, Any]:
        """The record without cost, timing and provenance. It is equal for two runs of the same cell."""
        trials = {"__all__": {"cost"}}
        measured: Any = {
            **dict.fromkeys(("cost", "points", "timing", "provenance"), True),
            "tuning": {"trials": trials},
        }
        return self.model_dump(mode="json", by_alias=True, exclude=measured)


def _is_lineage(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("code"), str):
        return False
    stages = entry.get("stages")
    return isinstance(stages, list) and all(isinstance(stage, str) for stage in stages)

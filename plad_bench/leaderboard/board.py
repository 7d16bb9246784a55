"""A board as data: what its pages show, calculated from the records of a directory (leaderboard/loading.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plad_bench.leaderboard.compute import Compute
from plad_bench.leaderboard.curves import Curve, Leader
from plad_bench.leaderboard.metric_info import MetricInfo, SampledInfo
from plad_bench.leaderboard.samples import Shown
from plad_bench.leaderboard.statistics import Estimate, Pairwise
from plad_bench.plan.boardfile import BoardFile, Prices
from plad_bench.records.schema import Record, TuningPart
from plad_bench.records.validation import Problem


@dataclass(frozen=True)
class Cost:
    """Means over the cells of a row; None where no record has the value."""

    train_seconds: float | None
    """Device-seconds of training."""
    teacher_seconds: float | None
    """Device-seconds of the teacher that this cell would need alone."""
    teacher_share: float | None
    """The same, divided among the cells of the group that share the stage, which record equal seconds."""
    tokens_trained: float | None
    tokens_generated: float | None
    peak_memory: float | None
    """Bytes; the maximum, not the mean."""
    train_energy: float | None = None
    """Watt-hours of training, where they were measured."""
    teacher_energy: float | None = None
    """Watt-hours of the teacher that this cell would need alone, where they were measured."""
    money: float | None = None
    """See Prices.of; None if the board has no prices."""

    @property
    def total_seconds(self) -> float | None:
        """Device-seconds of training with its share of the teacher's; None if training is unknown."""
        return None if self.train_seconds is None else self.train_seconds + (self.teacher_share or 0.0)


@dataclass(frozen=True)
class Row:
    """A method or a baseline, with its estimates by metric."""

    label: str
    identity: str
    """Equal on every board for the same method with the same parameters."""
    method: str
    plugin: str
    """Name and version of the package that the method came from."""
    access: str
    paper: str
    lr: float
    lr_shared: bool
    named_settings: bool
    """Whether its selector sets parameters, which therefore need not be the method's defaults."""
    seeds: tuple[int, ...]
    """Number of requested seeds that are done."""
    asked: int
    estimates: Mapping[str, Estimate]
    cost: Cost
    cells: tuple[str, ...]
    rank: tuple[int, int] | None = None
    """The first and the last possible rank; None where nothing is ranked."""
    best: bool = False
    """Whether it may be the best: no other method is significantly better."""
    gap: Estimate | None = None
    """Share of the gap between SFT initialisation and teacher that it closes, by the primary metric."""
    tally: tuple[int, int, int] = (0, 0, 0)
    """Wins, ties and losses against the other ranked rows."""
    tuning: TuningPart | None = None
    """How its settings were chosen, the same for all seeds; None where they were not."""
    beats: Mapping[str, bool] = field(default_factory=dict)
    """Whether it is significantly better than each complete control, by the control's label."""
    truncated: Mapping[int, float] = field(default_factory=dict)
    """Seed -> the share of responses that reached the limit of tokens."""
    empty: Mapping[int, float] = field(default_factory=dict)
    """Seed -> the share of empty responses."""


@dataclass(frozen=True)
class Unranked:
    """Cells that do not contribute to the board, and why."""

    label: str
    status: str
    """incomplete, extra, failed, skipped or trial."""
    reason: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Absent:
    """A metric that some methods lack, and why."""

    metric: str
    reason: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class BestCheckpoint:
    """The best checkpoint of a teacher's fine-tuning."""

    metric: str
    """The metric of the validation prompts."""
    step: int
    """Optimiser steps."""
    points: int
    """Number of checkpoints that were compared."""


@dataclass(frozen=True)
class Group:
    """One task, teacher and student, within which methods are compared."""

    task: str
    teacher: str
    student: str
    examples: int
    protocol: Mapping[str, Any]
    metrics: tuple[MetricInfo, ...]
    primary: MetricInfo | None
    baselines: tuple[Row, ...]
    """Baselines: teacher, student, SFT initialisation, and the controls that are complete."""
    rows: tuple[Row, ...]
    """Complete methods, sorted by mean."""
    pairs: Pairwise | None
    """Comparisons of `rows`, in their order, by the primary metric; positive is better. None if that metric has no
    direction, or if there is a single seed, which does not generalise."""
    unranked: tuple[Unranked, ...]
    prices: Prices | None = None
    """The prices behind the rows' money."""
    absent: tuple[Absent, ...] = ()
    data: Mapping[str, float] = field(default_factory=dict)
    """Counts of the data stage by name."""
    samples: tuple[Shown, ...] = ()
    """Responses of baselines and rows, in this order, to some prompts, if the task's text may be shown."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """Numbers of parameters of `student` and `teacher`, as far as records have them."""
    sampled: tuple[SampledInfo, ...] = ()
    """Statistics of sampled responses, by metric in the order of `metrics`, then by k; values of all samples together
    last. Empty without --evaluate-samples."""
    curves: tuple[Curve, ...] = ()
    """The primary metric of `rows` that were evaluated during their training."""
    leaders: tuple[Leader, ...] = ()
    """The best method at each point of the training, and at its end; empty unless several have curves."""
    thinking: Mapping[str, str] = field(default_factory=dict)
    """The handling of thinking text of teacher and student, if they are thinking models: off, strip or keep."""
    selected: BestCheckpoint | None = None
    """The checkpoint of the teacher's fine-tuning; None if it is the last one without a choice."""


@dataclass(frozen=True)
class OtherVersion:
    """Stages behind records that were made by another version than the evaluated models."""

    code: str
    older: bool
    """Whether the models rest on these stages; otherwise the stages came after the models."""
    only_packages: bool
    """Whether the code is that of the models, and only a package differs."""
    stages: tuple[str, ...]
    records: int


@dataclass(frozen=True)
class Board:
    """The data of a page."""

    name: str
    settings: BoardFile
    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]
    dates: tuple[str, ...]
    """The days on which its records were written, the first and the last; empty if no record has a date."""
    code: Mapping[str, int]
    """Version of the code -> number of records."""
    commands: tuple[str, ...]
    others: tuple[OtherVersion, ...] = ()
    untold: int = 0
    """Done records without a lineage."""
    used: tuple[Record, ...] = ()
    """Valid records, also failed, skipped and trial ones, sorted by path."""
    older: Mapping[str, int] = field(default_factory=dict)
    """Data of older records -> their number. They do not count."""
    older_files: tuple[str, ...] = ()
    compute: Compute = field(default_factory=Compute)
    """What all its stages cost."""

    @property
    def title(self) -> str:
        """From board.toml, or the board's name."""
        return self.settings.title or self.name

    @property
    def records(self) -> int:
        """Number of valid records."""
        return len(self.used)

"""What a plugin may read of a planned cell and of a board: the arguments of two hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from plad_bench.contract import protocol
from plad_bench.contract.params import Params


class Selected(Protocol):
    """A component with its parameters, as it was selected."""

    @property
    def component(self) -> Any:
        """Its record: a `Task`, `Teacher`, `Student`, `Method`, `PairBuilder` or `Metric`."""

    @property
    def params(self) -> Params:
        """Its parameters."""

    @property
    def label(self) -> str:
        """Its name, with the parameters that differ from their defaults: "kd[temperature=2]"."""


class CellView(Protocol):
    """One row of a board for one seed, as it is planned."""

    @property
    def id(self) -> str:
        """TASK/STUDENT+TEACHER/ROW/seed-N."""

    @property
    def row(self) -> str:
        """The method's label, or the name of a baseline."""

    @property
    def task(self) -> Selected: ...

    @property
    def teacher(self) -> Selected: ...

    @property
    def student(self) -> Selected: ...

    @property
    def method(self) -> Selected | None:
        """None for a baseline."""

    @property
    def pairs(self) -> Selected | None:
        """The pair builder; None unless the method learns from pairs."""

    @property
    def metrics(self) -> Sequence[Selected]: ...

    @property
    def protocol(self) -> protocol.Protocol:
        """Steps, batch sizes, learning rates and the other settings."""

    @property
    def seed(self) -> int: ...


class EstimateView(Protocol):
    """A mean with its 95 % interval, in the metric's own unit; NaN where there is none."""

    @property
    def value(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


class RowView(Protocol):
    """A row of a board: a method or a baseline."""

    @property
    def label(self) -> str:
        """The method with its parameters, or the name of the baseline."""

    @property
    def method(self) -> str:
        """The method's name alone."""

    @property
    def seeds(self) -> Sequence[int]:
        """Those that are done."""

    @property
    def estimates(self) -> Mapping[str, EstimateView]:
        """By the metric's label."""

    @property
    def rank(self) -> tuple[int, int] | None:
        """The first and the last rank that it may have; None if nothing is ranked, as with one seed."""


class GroupView(Protocol):
    """One task, teacher and student: what may be compared."""

    @property
    def task(self) -> str: ...

    @property
    def teacher(self) -> str: ...

    @property
    def student(self) -> str: ...

    @property
    def examples(self) -> int:
        """How many prompts were evaluated."""

    @property
    def references(self) -> Sequence[RowView]:
        """The baselines."""

    @property
    def rows(self) -> Sequence[RowView]:
        """The methods that are complete, the best first."""


class BoardView(Protocol):
    """All that a page shows."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def groups(self) -> Sequence[GroupView]: ...

"""The public interface of planned cells and boards, which two hooks receive as arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from plad_bench.contract import protocol
from plad_bench.contract.params import Params


class Selected(Protocol):
    """A selected component with its parameters."""

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
    """A planned cell: one row of a board for one seed."""

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
        """The completed seeds."""

    @property
    def estimates(self) -> Mapping[str, EstimateView]:
        """By the metric's label."""

    @property
    def rank(self) -> tuple[int, int] | None:
        """The first and last rank that it may have; None if nothing is ranked, such as with one seed."""


class GroupView(Protocol):
    """The comparable rows of one task, teacher and student."""

    @property
    def task(self) -> str: ...

    @property
    def teacher(self) -> str: ...

    @property
    def student(self) -> str: ...

    @property
    def examples(self) -> int:
        """Number of evaluated prompts."""

    @property
    def baselines(self) -> Sequence[RowView]:
        """The baselines."""

    @property
    def rows(self) -> Sequence[RowView]:
        """The complete methods, best first."""


class BoardView(Protocol):
    """The content of a board's page."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def groups(self) -> Sequence[GroupView]: ...

"""A board's numbers as rows for other programs, in CSV or JSON lines, with the values of the records."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from plad_bench.contract import rounds
from plad_bench.leaderboard.board import Board
from plad_bench.leaderboard.compute import Compute
from plad_bench.records import ledger
from plad_bench.records.ledger import Execution
from plad_bench.records.schema import Record
from plad_bench.records.text import clean

Fields = dict[str, Any]


def cells(boards: Iterable[Board]) -> list[Fields]:
    """A row for each cell and metric; a cell without metrics, such as a failed one, has one row."""
    used = [(board.name, record) for board in boards for record in board.used]
    costs = sorted({name for _, record in used for name in record.cost})
    return [row for name, record in used for row in _cell(name, record, costs)]


def _cell(board: str, record: Record, costs: Sequence[str]) -> Iterator[Fields]:
    identity = {
        "board": board,
        "cell": record.cell,
        "status": record.status,
        "reason": record.reason,
        "task": record.task.selector,
        "teacher": record.teacher.selector,
        "student": record.student.selector,
        "method": record.method.selector,
        "params": json.dumps(_params(record), sort_keys=True),
        "pairs": record.pairs.selector if record.pairs else None,
        "access": record.method.access,
        "lr": record.method.lr,
        "seed": record.seed,
    }
    rest = {"key": record.key, "code": record.provenance.get("code")}
    rest |= {f"cost.{name}": record.cost.get(name) for name in costs}
    if not record.metrics:
        yield {**identity, **dict.fromkeys(("metric", "unit", "better", "value", "n", "stderr")), **rest}
    for name, metric in sorted(record.metrics.items()):
        values = {key: getattr(metric, key) for key in ("unit", "better", "value", "n", "stderr")}
        yield {**identity, "metric": name, **values, **rest}


def _params(record: Record) -> dict[str, Any]:
    """A method's parameters, with the learning rate that it was trained with if that is the board's."""
    params = record.method.params
    return {**params, "lr": record.method.lr} if "lr" in params else params


def estimates(boards: Iterable[Board]) -> list[Fields]:
    """A row for each method or baseline and metric of the boards, with the interval and the rank of the page."""
    return [
        {
            "board": board.name,
            "task": group.task,
            "teacher": group.teacher,
            "student": group.student,
            "method": row.label,
            "reference": row in group.baselines,
            "rank_low": row.rank[0] if row.rank else None,
            "rank_high": row.rank[1] if row.rank else None,
            "best": row.best if row.rank else None,
            "metric": metric.name,
            "unit": metric.unit,
            "better": metric.better,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "interval": estimate.label,
            "seeds": estimate.n_seeds,
            "asked": row.asked,
            "examples": group.examples,
        }
        for board in boards
        for group in board.groups
        for row in (*group.baselines, *group.rows)
        for metric in (*group.metrics, *group.sampled)
        if (estimate := row.estimates.get(metric.name)) is not None
    ]


def compute(boards: Iterable[Board]) -> list[Fields]:
    """A row for each board and kind of stage: how often it was executed, and the sum of what that cost."""
    return [row for board in boards for row in _computed(board)]


def _computed(board: Board) -> Iterator[Fields]:
    lost = {execution.id for execution in board.compute.lost}
    by_stage: dict[str, list[Execution]] = {}
    for execution in board.compute.executions:
        by_stage.setdefault(rounds.kind(execution.stage), []).append(execution)
    for stage, executions in sorted(by_stage.items()):
        of = Compute(tuple(executions))
        yield {
            "board": board.name,
            "stage": stage,
            "complete": board.compute.complete,
            "executions": len(executions),
            "lost": sum(e.id in lost for e in executions),
            "trials": len(of.trials),
            **{name: of.total(name) for name in ledger.SUMMED},
        }


def as_jsonl(rows: Iterable[Fields]) -> str:
    """One JSON object on a line, ASCII only."""
    return "".join(json.dumps({name: _known(v) for name, v in row.items()}, allow_nan=False) + "\n" for row in rows)


def as_csv(rows: Sequence[Fields]) -> str:
    """A table with a header; text is on one line, with a leading ' if a spreadsheet would take it for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow([_text(name) for name in rows[0]])
    writer.writerows([_text(v) if isinstance(v, str) else _known(v) for v in row.values()] for row in rows)
    return text.getvalue()


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: str) -> str:
    line = clean(value, 10_000)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line

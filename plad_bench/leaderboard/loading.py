"""Reads the records of a directory into a board. It depends on the committed files alone.

A corrupt, foreign or edited record is listed among the problems and left out; it never stops a board.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from plad_bench.contract import gc_pause
from plad_bench.contract.enums import BASELINES, OUTSIDE
from plad_bench.leaderboard import compute, samples, statistics
from plad_bench.leaderboard.board import Absent, BestCheckpoint, Board, Cost, Group, OtherVersion, Row, Unranked
from plad_bench.leaderboard.curves import Curve, Leader, Trained, curves, leaders
from plad_bench.leaderboard.data_versions import described, newest
from plad_bench.leaderboard.labels import labels
from plad_bench.leaderboard.metric_info import MetricInfo, SampledInfo
from plad_bench.leaderboard.statistics import Array, Estimate, Pairwise
from plad_bench.plan import boardfile
from plad_bench.plan.boardfile import BoardFile, Prices
from plad_bench.records import ledger
from plad_bench.records.schema import Record
from plad_bench.records.storage import at, is_prompt
from plad_bench.records.validation import Complain, LoadedRecord, Problem, consistent, found, matrix, with_scores

Shares: TypeAlias = Counter[tuple[str, float]]
"""(name, seconds) of a shared expense -> number of cells of a group that share it."""


@dataclass(frozen=True)
class Cells:
    """The usable records of a directory."""

    settings: BoardFile
    groups: dict[str, list[LoadedRecord]]
    """By task, teacher and student; those of the versions of data and models that count."""
    older: list[LoadedRecord]
    """Those of other versions."""
    problems: list[Problem]
    """What was left out so far."""

    def complain(self, cell: LoadedRecord, reason: str) -> None:
        """Note that a record is left out."""
        self.problems.append(Problem(cell.file, reason))

    @property
    def sorted_problems(self) -> tuple[Problem, ...]:
        """Problems by file."""
        return tuple(sorted(self.problems, key=lambda problem: (problem.file, problem.reason)))


def read(directory: Path) -> Cells:
    """Read board.toml and cells/**/*.json with their scores.

    Raises:
        UsageError: if board.toml is malformed.
    """
    settings, problems = boardfile.read(directory / "board.toml"), list[Problem]()
    current, older = newest(found(directory / "cells", problems), settings.versions)
    cells = Cells(settings, defaultdict(list), older, problems)
    for cell in consistent(current, settings.conditions, cells.complain):
        cells.groups[cell.group].append(cell)
    return cells


@gc_pause.paused()
def load(directory: Path) -> Board:
    """Read a board: what `read` finds, with estimates, ranks and comparisons.

    Raises:
        UsageError: if board.toml is malformed.
    """
    cells = read(directory)
    groups = tuple(_group(cells.groups[key], cells.settings, cells.complain) for key in sorted(cells.groups))
    left_out = {problem.file for problem in cells.problems}
    every = sorted((cell for of in cells.groups.values() for cell in of), key=lambda c: c.file)
    used = [cell.record for cell in every if cell.file not in left_out]
    return Board(
        name=directory.name,
        settings=cells.settings,
        groups=groups,
        problems=cells.sorted_problems,
        dates=_span(str(r.provenance["date"]) for r in used if r.provenance.get("date")),
        code=dict(sorted(Counter(str(r.provenance["code"]) for r in used if r.provenance.get("code")).items())),
        commands=tuple(sorted({c for r in used if isinstance(c := r.provenance.get("command"), str) and c.strip()})),
        others=_others(used),
        untold=sum(r.status in {"done", "trial"} and not r.lineage for r in used),
        used=tuple(used),
        older=described(cells.older, cells.settings.versions),
        older_files=tuple(cell.file for cell in cells.older),
        compute=compute.of(ledger.read(directory), used),
    )


def _others(used: Iterable[Record]) -> tuple[OtherVersion, ...]:
    """The versions that made stages of records but not their models, older ones first."""
    stages: dict[tuple[bool, str, bool], set[str]] = defaultdict(set)
    records: dict[tuple[bool, str, bool], set[str]] = defaultdict(set)
    for record in used:
        code, packages = (record.provenance.get(name) for name in ("code", "packages"))
        for entry in record.lineage:
            if (entry["code"], entry["packages"]) != (code, packages):
                version = (not entry.get("older"), entry["code"], entry["code"] == code)
                stages[version].update(entry["stages"])
                records[version].add(record.cell)
    return tuple(
        OtherVersion(version[1], not version[0], version[2], tuple(sorted(stages[version])), len(records[version]))
        for version in sorted(records)
    )


# ------------------------------------------------------------------------------------------------------- one group


def _group(cells: Sequence[LoadedRecord], settings: BoardFile, complain: Complain) -> Group:
    done = with_scores((cell for cell in cells if cell.record.status == "done"), complain)
    metrics, sampled = _columns(done, settings, complain)
    done = [cell for cell in done if all(_fits(cell, metric) for metric in (*metrics, *sampled))]
    primary = _primary(metrics, settings)
    others = [cell for cell in cells if cell.record.status != "done"]
    asked = asked_seeds(cells, settings)
    named = labels([*done, *others])
    shares = Counter(part for cell in done for part in _shared(cell.record.cost).items())

    every: dict[str, list[LoadedRecord]] = defaultdict(list)
    for cell in sorted(done, key=lambda cell: cell.record.seed):
        every[cell.method].append(cell)
    by_method = {key: counted for key, of in every.items() if (counted := _counted(of, asked))}
    costs = {key: _cost([cell.record.cost for cell in of], shares, settings.prices) for key, of in by_method.items()}
    columns = (*metrics, *sampled)
    made = {key: _row(named[key], of, columns, asked, costs[key]) for key, of in by_method.items()}
    whole = {key: of[0].record for key, of in by_method.items() if set(made[key].seeds) == set(asked)}
    complete = [key for key, record in whole.items() if not (record.is_baseline or record.method.control)]
    baselines = sorted(
        (key for key, of in by_method.items() if of[0].record.is_baseline),
        key=lambda key: ((*BASELINES, OUTSIDE).index(made[key].method), made[key].label),
    )
    baselines += sorted((key for key, record in whole.items() if record.method.control), key=lambda key: named[key])
    rows, pairs = _ranked(complete, made, by_method, baselines, primary)
    shown = (*(made[key] for key in baselines), *rows)
    unranked = _unranked(
        [*done, *others],
        {cell for row in shown for cell in row.cells},
        named,
        asked,
    )
    first = (done or cells)[0].record
    by_id = {cell.record.cell: cell for cell in done}
    during = _during(rows, [made[key] for key in baselines], by_id, primary, settings)
    return Group(
        task=first.task.selector,
        teacher=first.teacher.selector,
        student=first.student.selector,
        examples=sum(map(is_prompt, done[0].ids)) if done else 0,
        protocol=first.protocol,
        metrics=metrics,
        primary=primary,
        baselines=tuple(made[key] for key in baselines),
        rows=rows,
        pairs=pairs,
        unranked=unranked,
        prices=settings.prices,
        absent=_absent([*done, *others], named),
        data={n.removeprefix("data."): v for n, v in first.counts.items() if n.startswith("data.")},
        samples=samples.side_by_side([[by_id[of] for of in row.cells] for row in shown], primary, complain),
        sizes=_sizes(done),
        sampled=sampled,
        curves=during[0],
        leaders=during[1],
        thinking=_thinking(done),
        selected=next(filter(None, map(_selected, done)), None),
    )


def _during(
    rows: Sequence[Row],
    baselines: Sequence[Row],
    cells: Mapping[str, LoadedRecord],
    primary: MetricInfo | None,
    settings: BoardFile,
) -> tuple[tuple[Curve, ...], tuple[Leader, ...]]:
    """The primary metric during the training of the complete methods, and the best method at each point."""
    if primary is None or primary.better is None:
        return (), ()
    trained = [
        Trained(row.label, [cells[of] for of in row.cells], row.best, row.cost.teacher_share or 0.0) for row in rows
    ]
    starts = (row for row in baselines if row.method == "sft-init" and primary.name in row.estimates)
    start = [cells[of] for row in starts for of in row.cells]
    return curves(trained, start, primary, settings.prices), leaders(trained, primary)


def _thinking(cells: Iterable[LoadedRecord]) -> dict[str, str]:
    """The handling of thinking text of teacher and student, from the records of their responses."""
    found = {}
    for cell in cells:
        how = at(cell.record.provenance, "notes", "generate", "prompts", "thinking")
        if isinstance(how, str):
            found["teacher" if cell.record.method.name == "teacher" else "student"] = how
    return found


def _selected(cell: LoadedRecord) -> BestCheckpoint | None:
    """The checkpoint of a teacher that a record says was chosen."""
    told = at(cell.record.provenance, "notes", "teacher", "selected")
    match told:
        case {"metric": str(metric), "step": int(step), "values": {**values}} if values:
            return BestCheckpoint(metric, step, len(values))
    return None


def _sizes(cells: Iterable[LoadedRecord]) -> dict[str, float]:
    """The numbers of parameters of teacher and student, from the records of their responses."""
    found = {}
    for cell in cells:
        counts, method = cell.record.counts, cell.record.method.name
        size = counts.get("generate.parameters", counts.get("init.parameters"))
        if size and method != OUTSIDE:
            found["teacher" if method == "teacher" else "student"] = size
    return found


def _absent(cells: Iterable[LoadedRecord], named: Mapping[str, str]) -> tuple[Absent, ...]:
    """Metrics without a value, by metric and reason."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        for metric, reason in cell.record.absent.items():
            found[metric, reason].add(named.get(cell.method, cell.record.method.selector))
    return tuple(Absent(*key, tuple(sorted(of))) for key, of in sorted(found.items()))


def _counted(cells: list[LoadedRecord], asked: Sequence[int]) -> list[LoadedRecord]:
    """The cells of requested seeds. A baseline with one record is fixed: it has no seed."""
    if len(cells) == 1 and cells[0].record.is_baseline:
        return cells
    return [cell for cell in cells if cell.record.seed in asked]


def _columns(
    done: Sequence[LoadedRecord], settings: BoardFile, complain: Complain
) -> tuple[tuple[MetricInfo, ...], tuple[SampledInfo, ...]]:
    """The metrics of the board, each with the direction and unit that most records declare, and those of samples."""
    declared = Counter((name, m.better, m.unit) for cell in done for name, m in cell.record.metrics.items())
    usual = {
        name: MetricInfo(name, better, unit) for (name, better, unit), _ in sorted(declared.items(), key=_commonness)
    }
    parts = {name: part for cell in done for name, m in cell.record.metrics.items() if (part := m.sampled)}
    others = {*parts, *(name for cell in done for name, m in cell.record.metrics.items() if m.point)}
    names = [name for name in settings.metrics or sorted(usual) if name in usual and name not in others]
    metrics = tuple(usual[name] for name in names)
    of_samples = [SampledInfo(**asdict(usual[name]), **part.model_dump()) for name, part in parts.items()]
    place = {name: k for k, name in enumerate(names)}
    sampled = sorted(
        (info for info in of_samples if info.kind == "set" or info.metric in place),
        key=lambda info: (info.kind == "set", place.get(info.metric, 0), info.metric, info.kind, info.k),
    )
    for cell in done:
        odd = [info.name for info in (*metrics, *sampled) if not _fits(cell, info)]
        if odd:
            complain(cell, f"declares another direction or unit of {', '.join(odd)} than the other records")
    return metrics, tuple(sampled)


def _primary(metrics: Sequence[MetricInfo], settings: BoardFile) -> MetricInfo | None:
    named = [metric for metric in metrics if metric.name == settings.primary]
    directed = [metric for metric in metrics if metric.better is not None]
    return next(iter(named if settings.primary else [*directed, *metrics]), None)


def _fits(cell: LoadedRecord, metric: MetricInfo) -> bool:
    theirs = cell.record.metrics.get(metric.name)
    return theirs is None or (theirs.better, theirs.unit) == (metric.better, metric.unit)


def asked_seeds(cells: Iterable[LoadedRecord], settings: BoardFile) -> tuple[int, ...]:
    """The seeds that a method of a group needs to be complete."""
    if settings.seeds_asked:
        return tuple(range(settings.seeds_asked))
    done = (cell.record for cell in cells if cell.record.status == "done" and not cell.record.is_baseline)
    return tuple(sorted({record.seed for record in done}))


def _estimates(cells: Sequence[LoadedRecord], metrics: Sequence[str]) -> dict[str, Estimate]:
    """An estimate of each metric, computed together for metrics with equal numbers of examples."""
    alike: dict[int, dict[str, Array]] = defaultdict(dict)
    for name in metrics:
        scores = matrix(cells, name)
        alike[scores.shape[1]][name] = scores
    found = {
        n: e for of in alike.values() for n, e in zip(of, statistics.estimates(np.array([*of.values()])), strict=True)
    }
    return {name: found[name] for name in metrics}


def _row(
    label: str,
    cells: Sequence[LoadedRecord],
    metrics: Sequence[MetricInfo],
    asked: Sequence[int],
    cost: Cost,
) -> Row:
    first = cells[0].record
    seeds = tuple(cell.record.seed for cell in cells if cell.record.seed in asked)
    shown = [m.name for m in metrics if all((of := c.record.metrics.get(m.name)) and of.n for c in cells)]
    return Row(
        label=label,
        identity=cells[0].identity,
        method=first.method.name,
        plugin=first.method.plugin,
        access=first.method.access,
        paper=first.method.paper,
        lr=first.method.lr,
        lr_shared=first.method.lr_shared,
        named_settings="[" in first.method.selector,
        seeds=seeds,
        asked=len(asked),
        estimates=_estimates(cells, shown),
        cost=cost,
        cells=tuple(cell.record.cell for cell in cells),
        tuning=first.tuning,
        truncated={cell.record.seed: _share(cell, "truncated") for cell in cells},
        empty={cell.record.seed: _share(cell, "empty") for cell in cells},
    )


def _share(cell: LoadedRecord, kind: str) -> float:
    """The share of a cell's responses of a kind, such as truncated ones; 0 in records that do not say."""
    return cell.record.counts.get(f"generate.{kind}", 0.0) / max(1, sum(map(is_prompt, cell.ids)))


def _shared(cost: Mapping[str, float]) -> dict[str, float]:
    """The seconds of a cost that other cells share."""
    return {name: cost[name] for name in ("teacher_device_seconds", "signals_device_seconds") if name in cost}


def _cost(costs: Sequence[Mapping[str, float]], shares: Shares, prices: Prices | None) -> Cost:
    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    def known(name: str) -> list[float]:
        return [cost[name] for cost in costs if name in cost]

    shared = [parts for cost in costs if (parts := _shared(cost))]
    return Cost(
        train_seconds=mean(known("train_device_seconds")),
        teacher_seconds=mean([sum(parts.values()) for parts in shared]),
        teacher_share=mean([sum(part[1] / shares[part] for part in parts.items()) for parts in shared]),
        tokens_trained=mean(known("tokens_trained")),
        tokens_generated=mean(known("tokens_generated")),
        peak_memory=max(known("peak_memory_bytes"), default=None),
        train_energy=mean(known("train_energy_wh")),
        teacher_energy=mean(known("teacher_energy_wh")),
        money=mean([spent for cost in costs if (spent := prices.of(cost)) is not None]) if prices else None,
    )


def _ranked(
    keys: Sequence[str],
    rows: Mapping[str, Row],
    cells: Mapping[str, Sequence[LoadedRecord]],
    baselines: Sequence[str],
    primary: MetricInfo | None,
) -> tuple[tuple[Row, ...], Pairwise | None]:
    """The complete methods sorted by mean, if the primary metric has a direction, and their comparisons."""
    if primary is None or primary.better is None:
        return tuple(sorted((rows[key] for key in keys), key=lambda row: row.label)), None
    sign = 1.0 if primary.better == "higher" else -1.0
    goodness = {key: sign * e.value for key in keys if (e := rows[key].estimates.get(primary.name)) is not None}
    order = sorted(goodness, key=lambda key: (-goodness[key], rows[key].label))
    if not order:
        return (), None
    k = len(order)
    ends = [[key for key in baselines if _usable(rows[key], name, primary)] for name in ("sft-init", "teacher")]
    gaps = all(len(keys) == 1 for keys in ends)
    measured = [key for key in baselines if primary.name in rows[key].estimates]
    controls = [key for key in measured if cells[key][0].record.method.control]
    compared = [*order, *controls, *(keys[0] for keys in ends if gaps)]
    moments = statistics.moments([sign * matrix(cells[key], primary.name) for key in compared])
    if moments.seeds < 2:
        return tuple(rows[key] for key in order), None
    pairs = statistics.pairwise(moments.only(slice(k)))
    n = k + len(controls)
    beats = statistics.better(moments.only(slice(n)), k).tolist()
    significant = pairs.p_holm < 1 - statistics.LEVEL
    wins, losses = ((significant & (d > 0)).sum(axis=1).tolist() for d in (pairs.difference, -pairs.difference))
    ranked = [
        replace(
            rows[key],
            rank=pairs.rank_interval(i),
            best=bool(pairs.best[i]),
            gap=statistics.gap_closed(moments.only([i, n, n + 1])) if gaps else None,
            tally=(wins[i], k - 1 - wins[i] - losses[i], losses[i]),
            beats={rows[key].label: won for key, won in zip(controls, beats[i], strict=True)},
        )
        for i, key in enumerate(order)
    ]
    return tuple(ranked), pairs


def _usable(row: Row, name: str, primary: MetricInfo) -> bool:
    """Whether this is the baseline with that name and all requested seeds; a fixed teacher needs only one."""
    whole = len(row.seeds) == row.asked or (name == "teacher" and len(row.cells) == 1)
    return row.method == name and primary.name in row.estimates and whole


def _unranked(
    cells: Iterable[LoadedRecord], ranked: Set[str], named: Mapping[str, str], asked: Sequence[int]
) -> tuple[Unranked, ...]:
    """The cells without a row, by method, status and reason."""
    done = Counter(c.method for c in cells if c.record.status == "done" and c.record.seed in asked)
    seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for cell in cells:
        r = cell.record
        if r.cell in ranked or cell.method not in named:
            continue
        status: str = r.status
        reason = r.reason
        if status == "done" and r.seed not in asked:
            status, reason = "extra", "beyond the requested seeds"
        elif status == "done" and done[cell.method] < len(asked):
            status, reason = "incomplete", f"{done[cell.method]} of {len(asked)} seeds are done"
        elif status == "done":
            status, reason = "incomplete", "has no value of the primary metric"
        elif status == "trial":
            reason = reason or "a run with --limit"
        seeds[named[cell.method], status, reason].append(r.seed)
    return tuple(Unranked(*key, tuple(sorted(of))) for key, of in sorted(seeds.items()))


def _commonness(counted: tuple[tuple[str, str | None, str], int]) -> tuple[int, str]:
    """Sorts the most frequent last."""
    return counted[1], repr(counted[0])


def _span(days: Iterable[str]) -> tuple[str, ...]:
    """The first and the last day, or the only one."""
    known = sorted(set(days))
    return (known[0], known[-1]) if len(known) > 1 else tuple(known)

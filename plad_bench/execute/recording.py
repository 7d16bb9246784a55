"""Writes a cell's record, and the files beside it, from its artifacts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from plad_bench.contract import locks
from plad_bench.contract.enums import OUTSIDE
from plad_bench.contract.files import unreadable, unwritable, write_atomically
from plad_bench.contract.jsonlines import read_lines
from plad_bench.contract.protocol import Protocol
from plad_bench.execute import lineage, provenance
from plad_bench.execute.engine import Failure
from plad_bench.execute.store import Artifact, Store
from plad_bench.plan import expenses
from plad_bench.plan.cell import Cell
from plad_bench.plan.chosen import Chosen
from plad_bench.plan.expenses import Facts
from plad_bench.plan.sampled import Statistic
from plad_bench.plan.spec import protocol_values
from plad_bench.plan.stage import Stage, digest
from plad_bench.plan.trials import SEED, Tuning
from plad_bench.records import sampled, schema, storage

logger = logging.getLogger("plad_bench")

SAMPLES = 16
"""Prompts, the first by id, whose responses a page shows."""
ScoresById: TypeAlias = dict[str, float]
"""Example -> value; NaN if it has none."""


def path_of(cells: Path, cell_id: str) -> Path:
    """The path of a cell's record."""
    return cells / f"{cell_id}.json"


def recorded(cells: Path, cell: Cell) -> schema.Record | None:
    """The record of this cell if it is complete, with every requested metric; None if there is work to do."""
    record = _read(cells, cell)
    if record is None:
        return None
    if cell.skip:
        return record if record.status == "skipped" and record.reason == cell.skip else None
    if record.status not in {"done", "trial"} or record.key != cell.responses.key:
        return None
    keys = {label: metric.key for label, metric in record.metrics.items()}
    complete = all(keys.get(label) == stage.key for label, stage in cell.scores.items())
    complete = complete and all(record.absent.get(label) == reason for label, reason in cell.absent.items())
    return record if complete and _has_its_scores(cells, cell, record) else None


def _has_its_scores(cells: Path, cell: Cell, record: schema.Record) -> bool:
    """Whether the scores file belongs to the record; a kill may separate them."""
    file = path_of(cells, cell.id).with_suffix(".scores.parquet")
    try:
        return record.scores is not None and hashlib.sha256(file.read_bytes()).hexdigest() == record.scores.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(file.name, error) from error


def failure(cells: Path, cell: Cell) -> schema.Record | None:
    """The record of a cell whose last attempt failed; None if it did not, or was at another version of it."""
    record = _read(cells, cell)
    return record if record is not None and record.status == "failed" and record.key == cell.responses.key else None


def _read(cells: Path, cell: Cell) -> schema.Record | None:
    """The record at a cell's path; None if there is none, or an invalid one.

    Raises:
        UnreadableError: if the file cannot be read, which does not mean that it is invalid.
    """
    try:
        return storage.read(path_of(cells, cell.id))
    except storage.UnreadableError:
        raise
    except storage.RecordError:
        return None


def stale(record: schema.Record) -> list[str]:
    """The stages of a record that other code or packages made; see `lineage.stale`."""
    return lineage.stale(record.lineage or [{**_version(record.provenance), "stages": ["the evaluated model"]}])


def needed(cells: Path, cell: Cell, find: lineage.FindArtifact) -> tuple[Stage, ...]:
    """The stages whose artifacts the record needs, without those that an earlier record of the responses describes."""
    stages = list(cell.scores.values())
    there = {stage.key: found for stage in (cell.responses, cell.checkpoint) if (found := find(stage.key))}
    if _same_responses(cells, cell, there) is None:
        stages += [cell.responses, _maker(cell), *([cell.responses.inputs["data"]] if _has_samples(cell) else [])]
    return tuple({stage.key: stage for stage in stages}.values())


def _maker(cell: Cell) -> Stage:
    """The stage whose provenance is the cell's: its training, or for a baseline its responses."""
    return cell.checkpoint if cell.method else cell.responses


def _has_samples(cell: Cell) -> bool:
    """Whether samples are recorded: for seed 0 of tasks whose text may be redistributed."""
    return not (cell.seed or cell.protocol.limit) and cell.task.component.redistributable


def write_done(cells: Path, cell: Cell, artifacts: Mapping[str, Artifact], arguments: Sequence[str]) -> schema.Record:
    """Write the record of a finished cell, its per-example scores, its samples and its training curve.

    Metrics that the record already has stay in it; concurrent runs that add metrics wait for each other.
    """
    path = path_of(cells, cell.id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.held(path.with_name(f".{path.name}.lock")):
            return _write_done(cells, cell, artifacts, arguments)
    except OSError as error:
        raise unwritable(path, error) from error


def _write_done(cells: Path, cell: Cell, artifacts: Mapping[str, Artifact], arguments: Sequence[str]) -> schema.Record:
    tables: dict[str, ScoresById] = {}
    metrics, by_label = {}, {m.label: m for m in cell.metrics}
    absent = dict(cell.absent)
    for label, stage in cell.scores.items():
        artifact, statistic, point = artifacts[stage.key], cell.statistics.get(label), cell.at_points.get(label)
        tables[label] = _sampled(artifact, statistic) if statistic else _values(artifact)
        value, n, stderr = storage.summarise(np.array(list(tables[label].values()), dtype=np.float64))
        if reason := artifact.manifest["notes"].get("absent"):
            absent[label] = _publishable(cell, reason)
        chosen = statistic.metric if statistic else point[0] if point else by_label[label]
        passes, component = statistic is not None and statistic.kind == "pass", chosen.component
        metrics[label] = schema.MetricPart(
            value=value,
            better="higher" if passes else component.better,
            n=n,
            stderr=stderr,
            unit="%" if passes else component.unit,
            key=stage.key,
            point=schema.PointPart(metric=chosen.label, percent=point[1]) if point else None,
            sampled=schema.SampledPart(metric=chosen.label, kind=statistic.kind, k=statistic.k) if statistic else None,
        )
    scores = path_of(cells, cell.id).with_suffix(".scores.parquet")
    maker = artifacts.get(_maker(cell).key)
    earlier = _same_responses(cells, cell, artifacts)
    made: Mapping[str, Any] = maker.manifest["provenance"] if maker else earlier.provenance if earlier else {}
    if earlier is not None:
        metrics, tables = _with_earlier(scores, earlier, metrics, tables)
        absent = {k: v for k, v in earlier.absent.items() if k not in cell.scores} | absent
    ids, columns = _joined(tables)
    data = storage.scores_bytes(ids, columns)
    write_atomically(scores, data)
    facts = _facts(artifacts)
    chain = [stage for stage in [*_chain(cell), *filter(None, [cell.samples])] if stage.key in facts]
    record = schema.Record(
        **_identity(cell),
        key=cell.responses.key,
        status="trial" if cell.protocol.limit else "done",
        metrics=metrics,
        absent=absent,
        scores=schema.ScoresPart(file=scores.name, sha256=hashlib.sha256(data).hexdigest(), examples=len(ids)),
        samples=_write_samples(cells, cell, artifacts, earlier),
        points=_points(cell, facts) or (earlier.points if earlier else {}),
        counts={**_counts(chain, facts), **(earlier.counts if earlier else {})},
        cost={**(earlier.cost if earlier else {}), **_cost(cell, facts)},
        timing={**(earlier.timing if earlier else {})}
        | {stage.name: round(facts[stage.key]["seconds"], 3) for stage in chain},
        provenance={
            **made,
            **_made_of(cell, artifacts),
            "lineage": _lineage(cell, made, artifacts, earlier, [name for name in metrics if name not in cell.scores]),
            "date": provenance.today(),
            "git": provenance.git(),
            "command": provenance.command(arguments),
            "notes": {
                **made.get("notes", {}),
                **{s.name: told for s in chain if (told := _told(facts[s.key]["notes"]))},
            },
        },
    )
    _write_curve(cells, cell, artifacts)
    storage.write(path_of(cells, cell.id), record)
    return record


def _points(cell: Cell, facts: Facts) -> dict[str, dict[str, float]]:
    """The cost until each point of the training, by percent, with what its inputs generated."""
    told = facts.get(cell.checkpoint.key, {}).get("notes", {}).get("points", {}) if cell.points else {}
    before = expenses.total(expenses.before((s.name, s.key) for s in cell.checkpoint.walk()), facts)
    sampled = before.get("tokens_generated", 0)
    return {
        percent: {name: value + (sampled if name == "tokens_generated" else 0) for name, value in cost.items()}
        for percent, cost in told.items()
    }


def _told(notes: Mapping[str, Any]) -> dict[str, Any]:
    """The notes of a stage that a record does not have elsewhere."""
    return {name: note for name, note in notes.items() if name != "points"}


def _version(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: made.get(name) for name in ("code", "packages")}


def _lineage(
    cell: Cell,
    made: Mapping[str, Any],
    artifacts: Mapping[str, Artifact],
    earlier: schema.Record | None,
    kept: Sequence[str],
) -> lineage.Lineage:
    """The lineage of all that a record rests on: artifacts, and metrics kept from an earlier record."""
    own, later, version = _maker(cell), (cell.responses, *cell.scores.values()), _version(made)
    found = [lineage.of(artifacts[stage.key], artifacts.get) for stage in later if stage.key in artifacts]
    if own.key in artifacts:
        before = lineage.of(artifacts[own.key], artifacts.get)
        found.append([entry if _version(entry) == version else {**entry, "older": True} for entry in before])
    if earlier is not None:
        named = {f"score {name.partition('[')[0]}" for name in kept}
        told = earlier.lineage or [{**_version(earlier.provenance), "stages": sorted(named)}]
        if own.key in artifacts:
            told = [{**entry, "stages": stages} for entry in told if (stages := named.intersection(entry["stages"]))]
        found.append(told)
    every = lineage.joined(*found)
    return [{k: v for k, v in e.items() if k != "packages" or v != version["packages"]} for e in every]


def write_undone(cells: Path, cell: Cell, failure: Failure | None, arguments: Sequence[str]) -> schema.Record:
    """Write the record of a skipped or failed cell."""
    record = schema.Record(
        **_identity(cell),
        key="" if cell.skip else cell.responses.key,
        status="failed" if failure else "skipped",
        reason=_publishable(cell, f"{failure.stage}: {failure.message}") if failure else cell.skip,
        provenance={
            "date": provenance.today(),
            "code": provenance.code_hash(),
            "command": provenance.command(arguments),
        },
    )
    storage.write(path_of(cells, cell.id), record)
    return record


def _identity(cell: Cell) -> dict[str, Any]:
    lr = getattr(cell.method.params, "lr", 0.0) if cell.method else 0.0
    if cell.method is None:
        method = schema.MethodPart(
            name=cell.row if cell.outside is None else OUTSIDE,
            selector=cell.row,
            params={"name": cell.row, **cell.outside.params.public()} if cell.outside else {},
            version=1,
            plugin="",
            access="",
            paper="",
            lr=0.0,
            lr_shared=True,
        )
    else:
        component = cell.method.component
        access = min(component.access, cell.plan.access(cell.method), key=lambda access: access.tier)
        method = schema.MethodPart(
            **_named(cell.method) | {"selector": cell.row},
            access=access.value,
            paper=component.paper,
            lr=lr or cell.protocol.lr,
            lr_shared=not lr,
            control=component.control,
        )
    task = cell.task.component
    return {
        "cell": cell.id,
        "seed": cell.seed,
        "task": schema.TaskPart(
            **_named(cell.task),
            licence=task.licence,
            redistributable=task.redistributable,
            data_version=cell.plan.data.document["operation_version"],
        ),
        "teacher": schema.Named(**_named(cell.teacher)),
        "student": schema.Named(**_named(cell.student)),
        "method": method,
        "pairs": schema.Named(**_named(cell.pairs)) if cell.pairs else None,
        "tuning": _tuning(cell.tuning) if cell.tuning else None,
        "protocol": protocol_values(cell.protocol),
    }


def _tuning(tuning: Tuning) -> schema.TuningPart:
    return schema.TuningPart(
        metric=tuning.metric,
        split="validation",
        seed=SEED,
        space={d.name: schema.RangePart(low=d.low, high=d.high, log=d.log) for d in tuning.space},
        trials=[
            schema.TrialPart(values=dict(t.values), score=t.score, reason=t.reason, cost=dict(t.cost or {}))
            for t in tuning.trials
        ],
        best=tuning.best or 0,
    )


def _named(chosen: Chosen) -> dict[str, Any]:
    component = chosen.component
    return {
        "name": component.name,
        "selector": chosen.label,
        "params": chosen.params.public(),
        "version": component.version,
        "plugin": chosen.registered.origin.distribution,
    }


def rests_on(record: schema.Record, responses: Artifact, model: Artifact | None) -> bool:
    """Whether the scores of a record belong to these responses and weights.

    The key of a record identifies how they were made; another machine may round differently when it makes them again.

    Args:
        record: of a cell.
        responses: the artifact of its key in a store.
        model: the checkpoint that generated them, or None.
    """
    known = record.provenance
    if "responses" not in known:  # a record of an earlier version: compare the stage's seconds instead
        return bool(record.timing.get(responses.stage) == round(responses.manifest["seconds"], 3))
    here = _fingerprints(responses, model)
    return all(known[name] == value for name, value in here.items() if name in known)


def measured(record: schema.Record, store: Store, model: Artifact) -> schema.Record:
    """The record with the scores that a store has for the cell's greedy responses, and the provenance of its weights.

    Everything else measured for the record (scores of samples, per-example scores, cost, time) is left out.
    """
    metrics = {}
    for label, metric in record.metrics.items():
        if metric.sampled is None and (artifact := store.find(metric.key)) is not None:
            value, n, stderr = storage.summarise(np.array(list(_values(artifact).values()), dtype=np.float64))
            metrics[label] = metric.model_copy(update={"value": value, "n": n, "stderr": stderr})
    notes = {name: record.provenance[name] for name in ("command", "notes") if name in record.provenance}
    provenance_ = {**model.manifest["provenance"], **notes}
    left_out: dict[str, Any] = {"scores": None, "samples": None, "cost": {}, "timing": {}}
    return record.model_copy(update={"metrics": metrics, "provenance": provenance_, **left_out})


def _fingerprints(responses: Artifact, model: Artifact | None) -> dict[str, str]:
    """Hashes of the responses' file and of the weights."""
    hashes = {name: entry["sha256"] for name, entry in responses.manifest["files"].items()}
    found = {"responses": hashes["responses.jsonl"]}
    if model is not None:
        files = model.manifest["files"]
        weights = {name: entry["sha256"] for name, entry in files.items() if name.startswith("model/")}
        found |= {"weights": digest(weights)} if weights else {}
    return found


def _made_of(cell: Cell, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    responses = artifacts.get(cell.responses.key)
    return _fingerprints(responses, artifacts.get(cell.checkpoint.key)) if responses is not None else {}


def _sampled(artifact: Artifact, statistic: Statistic) -> ScoresById:
    """A statistic of each prompt's values."""
    by_id = json.loads((artifact.path / "values.json").read_text())
    if statistic.kind == "pass":
        return {i: sampled.pass_at(statistic.k, of, statistic.metric.component.success) for i, of in by_id.items()}
    return {id_: sampled.mean(values) for id_, values in by_id.items()}


def _values(artifact: Artifact) -> ScoresById:
    by_id = json.loads((artifact.path / "values.json").read_text())
    return {id_: math.nan if v is None else v for id_, v in by_id.items()}


def _same_responses(cells: Path, cell: Cell, artifacts: Mapping[str, Artifact]) -> schema.Record | None:
    """The record that an earlier run wrote for the same responses."""
    earlier = _read(cells, cell)
    if earlier is None or earlier.key != cell.responses.key or earlier.scores is None:
        return None
    earlier = _as_sampled_now(earlier, cell)
    responses = artifacts.get(cell.responses.key)
    if responses is None or rests_on(earlier, responses, artifacts.get(cell.checkpoint.key)):
        return earlier
    if lost := sorted(set(earlier.metrics) - set(cell.scores)):
        logger.warning(
            "%s was trained again and differs from the weights of its record: its scores by %s are left out until a "
            "run without --metrics computes them again",
            cell.id,
            ", ".join(lost),
        )
    return None


def _as_sampled_now(earlier: schema.Record, cell: Cell) -> schema.Record:
    """The record without statistics of samples that were drawn under other settings."""
    said, now = {**Protocol.unsaid(), **earlier.protocol}, cell.protocol
    if (said["evaluate_samples"], said["evaluate_temperature"]) == (now.evaluate_samples, now.evaluate_temperature):
        return earlier
    return earlier.model_copy(update={"metrics": {n: m for n, m in earlier.metrics.items() if m.sampled is None}})


def _with_earlier(
    file: Path, earlier: schema.Record, metrics: dict[str, Any], tables: dict[str, ScoresById]
) -> tuple[dict[str, Any], dict[str, ScoresById]]:
    """Add the metrics that an earlier run computed for the same responses."""
    try:
        ids, columns = storage.read_scores(file, hashlib.sha256(file.read_bytes()).hexdigest())
    except storage.UnreadableError:
        raise
    except (storage.RecordError, FileNotFoundError):
        return metrics, tables
    # Compared by values, not by the file's hash: a kill may have come before its record was written.
    others = {name: part for name, part in earlier.metrics.items() if name in columns and name not in metrics}
    kept = [n for n, part in others.items() if storage.summarise(columns[n]) == (part.value, part.n, part.stderr)]
    old = {name: zip(ids, columns[name].tolist(), strict=True) for name in kept}
    old_tables = {n: {i: v for i, v in rows if storage.is_prompt(i) or not math.isnan(v)} for n, rows in old.items()}
    return {**metrics, **{name: earlier.metrics[name] for name in kept}}, {**tables, **old_tables}


def _joined(tables: Mapping[str, ScoresById]) -> tuple[list[str], dict[str, np.ndarray]]:
    """All examples, each once, with every metric's value for each: NaN for the own examples of another metric."""
    every = dict.fromkeys(id_ for table in tables.values() for id_ in table)
    ids = sorted(every, key=lambda id_: not storage.is_prompt(id_))  # stable: the order is kept otherwise
    return ids, {name: np.array([table.get(id_, math.nan) for id_ in ids]) for name, table in tables.items()}


def _chain(cell: Cell) -> list[Stage]:
    """The stages a cell rests on, each name once; of a teacher's several stages only the last."""
    others = {stage.key for stage in cell.plan.teach.walk() if stage.name == "init"} - {cell.plan.init.key}
    own = cell.checkpoint.key
    return [stage for stage in cell.responses.walk() if stage.key not in others or stage.key == own]


def _facts(artifacts: Mapping[str, Artifact]) -> Facts:
    """Facts of the artifacts, and of deleted ancestors from the manifests of their descendants."""
    told = {key: facts for artifact in artifacts.values() for key, facts in artifact.facts.items()}
    return told | {key: artifact.facts[artifact.key] for key, artifact in artifacts.items()}


def _counts(chain: Sequence[Stage], facts: Facts) -> dict[str, float]:
    return {f"{s.name}.{name}": value for s in chain for name, value in facts[s.key]["counts"].items()}


def _cost(cell: Cell, facts: Facts) -> dict[str, float]:
    """Device-seconds, tokens and memory. The teacher's are those of its training responses, which cells share."""
    if cell.method is None:
        return {}
    stages = [(stage.name, stage.key) for stage in cell.checkpoint.walk()]
    found = expenses.total(expenses.of_cell(stages, cell.checkpoint.key, cell.plan.sft_init.key), facts)
    peaks = (facts.get(stage.key, {}).get("cost", {}).get("peak_memory_bytes", 0) for stage in cell.trainings)
    return found | ({"peak_memory_bytes": max(peaks)} if "peak_memory_bytes" in found else {})


def _write_samples(
    cells: Path, cell: Cell, artifacts: Mapping[str, Artifact], earlier: schema.Record | None
) -> schema.SamplesPart | None:
    """Write the cell's responses to the first prompts."""
    file = path_of(cells, cell.id).with_suffix(".samples.jsonl")
    if not _has_samples(cell):
        file.unlink(missing_ok=True)
        return None
    responses, data = (artifacts.get(stage.key) for stage in (cell.responses, cell.responses.inputs["data"]))
    if responses is None or data is None:
        return earlier.samples if earlier else None
    examples = {row["id"]: row for row in read_lines(data.path / f"{cell.protocol.split}.jsonl")}
    answered = (row for row in read_lines(responses.path / "responses.jsonl") if row["responses"])
    rows = sorted(answered, key=lambda row: str(row["id"]))[:SAMPLES]
    content = storage.samples_bytes(
        schema.Sample(
            example=row["id"],
            prompt=examples[row["id"]]["prompt"],
            reference=next(iter(examples[row["id"]]["references"]), ""),
            response=row["responses"][0]["text"],
        )
        for row in rows
    )
    write_atomically(file, content)
    return schema.SamplesPart(file=file.name, sha256=hashlib.sha256(content).hexdigest())


def _write_curve(cells: Path, cell: Cell, artifacts: Mapping[str, Artifact]) -> None:
    """Write the values of a training. If a round was deleted from the store, an earlier record's curve stays."""
    if not all(stage.key in artifacts for stage in cell.trainings):
        return
    files = [artifacts[stage.key].path / "curve.jsonl" for stage in cell.trainings]
    if not all(file.is_file() for file in files):
        return
    rows = [row for file in files for row in read_lines(file)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    write_atomically(path_of(cells, cell.id).with_suffix(".curve.csv"), text.getvalue().encode())


def _publishable(cell: Cell, text: str) -> str:
    """A message fit for a record: without text that may not be redistributed, hosts, and absolute paths."""
    if not cell.task.component.redistributable:
        text = re.sub(r"(?s)(['\"]).*\1", "[text withheld: see the log]", text)
    text = re.sub(r"\bhttps?://[^\s,'\"\])]*", "[address]", text)
    return re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)*([^\s/:'\"]+)", r"\1", text)

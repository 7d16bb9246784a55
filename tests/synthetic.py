"""Synthetic records: a board on disk with known truths."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from plad_bench.contract.names import slug
from plad_bench.records import schema, storage
from plad_bench.render.write import render_board

PROTOCOL = {
    "steps": 300,
    "lr": 0.001,
    "sft_steps": 600,
    "sft_lr": 0.003,
    "batch": 32,
    "max_new_tokens": 96,
    "teach_temperature": 0.0,
    "sample_temperature": 0.7,
    "top_k": 40,
    "split": "test",
    "precision": "float32",
    "limit": 0,
}


def component(name, selector=None, **params):
    return {"name": name, "selector": selector or name, "params": params, "version": 1, "plugin": "plad-bench 0.1.0"}


def record(
    method="kd",
    seed=0,
    *,
    selector=None,
    status="done",
    columns=None,
    ids=None,
    access="logits",
    params=None,
    **changes,
):
    """(record as JSON value, scores file as bytes); `columns` maps a metric to (values, better, unit)."""
    columns = {} if columns is None else columns
    name = slug(selector or method)
    data = {
        "schema": schema.SCHEMA,
        "cell": f"{changes.pop('folder', 'demo.tiny')}/{name}.s{seed}",
        "key": "",
        "status": status,
        "reason": changes.pop("reason", ""),
        "seed": seed,
        "task": {**component("demo"), "licence": "Apache-2.0", "redistributable": True},
        "teacher": component("demo-teacher"),
        "student": component("tiny", layers=2),
        "method": {
            **component(method, selector, **({"x": 1} if params is None else params)),
            "access": access,
            "paper": "arXiv:0000.00000",
            "lr": 0.001,
            "lr_shared": True,
        },
        "protocol": dict(PROTOCOL),
        "provenance": {"code": "1a2b3c4", "command": "plad-bench run --methods kd --seeds 5 --board mine"},
    }
    data["key"] = digest(data["cell"].encode())
    scores = b""
    if columns:
        count = len(next(iter(columns.values()))[0])
        ids = ids or [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(count)]
        scores = storage.scores_bytes(ids, {metric: values for metric, (values, _, _) in columns.items()})
        data["scores"] = {"file": f"{name}.s{seed}.scores.parquet", "sha256": digest(scores), "examples": len(ids)}
        data["metrics"] = {}
        for metric, (values, better, unit) in columns.items():
            value, n, stderr = storage.summarise(values)
            part = {"value": value, "n": n, "stderr": stderr, "better": better, "unit": unit, "key": "0" * 64}
            data["metrics"][metric] = part
    data.update(changes)
    return data, scores


def digest(data):
    return hashlib.sha256(data).hexdigest()


def put_samples(board: Path, data, responses, prompt="name[A]", reference="A is a walk."):
    """Samples beside a record, and named by it."""
    examples = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(len(responses))]
    rows = [
        schema.Sample(example=example, prompt=f"{prompt} {k}", reference=reference, response=response)
        for k, (example, response) in enumerate(zip(examples, responses, strict=True))
    ]
    content = storage.samples_bytes(rows)
    path = board / "cells" / f"{data['cell']}.samples.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    data["samples"] = {"file": path.name, "sha256": digest(content)}


def put(board: Path, data, scores=b"", at=None):
    """Write a record and its scores into a board."""
    path = board / "cells" / f"{at or data['cell']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    if scores:
        (path.parent / data["scores"]["file"]).write_bytes(scores)
    return path


TRUTHS = {  # method: (slots missing %, rouge-l, device-seconds, access)
    "plad": (0.090, 0.542, 91.0, "text"),
    "plad[loss=margin]": (0.094, 0.537, 96.0, "token log-probs"),
    "seqkd": (0.094, 0.546, 34.0, "text"),
    "kd": (0.124, 0.538, 41.0, "logits"),
    "sft": (0.140, 0.531, 31.0, "text"),
}


def columns(rng, missing, rouge, hardness, seed_effect=0.0):
    """Scores of one cell over the examples: slots missing in percent, ROUGE-L, response length."""
    chance = 1 / (1 + np.exp(-(np.log(missing / (1 - missing)) * 1.25 + hardness + seed_effect)))
    return {
        "missing-slots": (rng.binomial(6, chance) / 6, "lower", "%"),
        "rouge-l": (
            np.clip(rouge - 0.02 * hardness - 0.02 * seed_effect + rng.normal(0, 0.06, len(hardness)), 0, 1),
            "higher",
            "%",
        ),
        "length": (30 + rng.normal(0, 4, len(hardness)).round(), None, "tokens"),
    }


def realistic(board: Path, seeds=5, examples=300, methods=None, random=7):
    """A board like the demo's: references, five methods, a skipped, a failed, an incomplete one and a trial."""
    rng = np.random.default_rng(random)
    hardness = rng.normal(0, 0.9, examples)
    teach = 212.5

    def cost(seconds, teacher):
        shared = {"teacher_device_seconds": teach} if teacher else {}
        memory = 6.1e8 + 1e6 * seconds
        return {
            "train_device_seconds": seconds,
            "tokens_trained": 3.1e5,
            "tokens_generated": 2.2e5 * teacher,
            "peak_memory_bytes": memory,
            **shared,
        }

    put(board, *record("teacher", columns=columns(rng, 0.026, 0.551, hardness), params={}))
    put(board, *record("student", columns=columns(rng, 0.93, 0.05, hardness), params={}))
    for seed in range(seeds):
        warm = rng.normal(0, 0.10)
        put(board, *record("sft-init", seed, columns=columns(rng, 0.189, 0.524, hardness, warm), params={}))
        for name, (missing, rouge, seconds, access) in (methods or TRUTHS).items():
            effect = 0.5 * warm + rng.normal(0, 0.08)
            method, _, params = name.partition("[")
            data, scores = record(
                method,
                seed,
                selector=name,
                params={"typed": params},
                access=access,
                columns=columns(rng, missing, rouge, hardness, effect),
                cost=cost(seconds * rng.uniform(0.95, 1.05), name != "sft"),
            )
            put(board, data, scores)
        if seed < 3:
            put(board, *record("gkd", seed, columns=columns(rng, 0.11, 0.54, hardness), access="logits"))
        put(board, *record("uld", seed, status="skipped", reason="the teacher gives no logits"))
    put(board, *record("gkd", 3, status="failed", reason="CUDA out of memory: tried to allocate 2.1 GiB"))
    put(board, *record("simpo", 0, status="trial", columns=columns(rng, 0.11, 0.54, hardness)))
    (board / "board.toml").write_text(
        'title = "Demo"\nmetrics = ["missing-slots", "rouge-l", "length"]\nprimary = "missing-slots"\n',
        encoding="utf-8",
    )
    return board


def with_samples(board: Path) -> Path:
    """The board with two samples for every row."""
    for path in sorted(board.glob("cells/**/*.s0.json")):
        data = json.loads(path.read_text())
        if data["status"] == "done":
            put_samples(board, data, [f"{path.stem} says\nthis", ""])
            put(board, data)
    return board


def page(directory, sections=()):
    """The Markdown page of a board."""
    return render_board(directory, sections)[directory / "README.md"].decode()

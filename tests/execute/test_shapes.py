"""Models of three shapes on records like those of TL;DR and HH, with LoRA and without: every stage, in this process."""

from __future__ import annotations

import json
import math
import random
import runpy
from pathlib import Path

import pytest
import tiny
import torch

from plad_bench.execute.stages.files import VALUES
from plad_bench.execute.store import Artifact
from plad_bench.execute.worker import stage_function
from plad_bench.plan import matrix, spec
from plad_bench.plan.chosen import choose

SHAPES = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "shapes.py"))
RANK = 2
SMALL = {"sft_steps": 4, "sft_lr": 1e-2, "steps": 2, "lr": 1e-2, "batch": 4, "max_new_tokens": 3, "limit": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Records, and a student and a teacher of each shape."""
    directory = tmp_path_factory.mktemp("shapes")
    draws = [random.Random(i) for i in range(90)]
    texts = [(" ".join(d.choices(tiny.WORDS, k=8)), " ".join(d.choices(tiny.WORDS, k=4))) for d in draws]
    rows = {
        "tldr": [{"subreddit": "walks", "title": p[:9], "instruction": p, "gold_response": r} for p, r in texts],
        "hh": [{"instruction": p, "gold_response": r} for p, r in texts],
    }
    for task, records in rows.items():
        (directory / f"{task}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in records))
    for shape in SHAPES["SHAPES"]:
        for role, width in (("student", 16), ("teacher", 32)):
            model = SHAPES["shaped"](shape, SHAPES["Size"](width, 1), 300)
            model.save_pretrained(directory / f"{shape}-{role}")
            tiny.tokenizer().save_pretrained(directory / f"{shape}-{role}")
    return directory


@pytest.fixture(scope="module")
def made():
    """Artifacts by key."""
    return {}


def make(stage, made, place):
    """The artifact of a stage, with all that it rests on."""
    for one in stage.walk():
        if one.key not in made:
            given = json.loads(json.dumps({"spec": dict(one.spec), "job": dict(one.job)}))
            inputs = {role: made[parent.key] for role, parent in one.inputs.items()}
            context = tiny.context(place, name=one.key[:12], inputs=inputs, **given)
            stage_function(one.operation)(context)
            manifest = {"document": one.document, "cost": context.cost, "counts": context.counts}
            made[one.key] = Artifact(context.out, manifest)
    return made[stage.key]


def value(cell, metric, made, place):
    """The mean of a metric of a cell."""
    values = json.loads((make(cell.scores[metric], made, place).path / VALUES).read_text()).values()
    return sum(values) / len(values)


@pytest.mark.parametrize("lora", [0, RANK], ids=["whole", "lora"])
@pytest.mark.parametrize("shape", SHAPES["SHAPES"])
def test_every_cell_runs(place, made, shape, lora):
    tasks = {task: f"{task}[path={place / task}.jsonl]" for task in SHAPES["TASKS"]}
    built = spec.build(
        tiny.registry(),
        task=",".join(tasks.values()),
        methods="sft,kd,plad,gkd",
        student=f"hf[path={place}/{shape}-student]",
        teacher=f"hf[path={place}/{shape}-teacher,steps=0]",
        metrics="nll,fidelity-top1",
        overrides={c.label: SMALL | {"lora": lora} for c in choose(tiny.registry(), "task", ",".join(tasks.values()))},
    )
    found = {(c.task.component.name, c.row): c for c in matrix.cells(built, tiny.registry())}
    assert len(found) == 14
    assert not [cell.skip for cell in found.values() if cell.skip]
    for task in tasks:
        cells = {row: cell for (name, row), cell in found.items() if name == task}
        surprise = {row: value(cell, "nll", made, place) for row, cell in cells.items()}
        assert all(map(math.isfinite, surprise.values()))
        assert surprise["sft-init"] < surprise["student"]
        assert surprise["sft"] < surprise["sft-init"]
        assert value(cells["teacher"], "fidelity-top1", made, place) == 1
        assert 0 <= value(cells["kd"], "fidelity-top1", made, place) < 1
        for row in cells.keys() - {"teacher", "student"}:
            stage = cells[row].checkpoint
            assert made[stage.key].manifest["cost"]["tokens_trained"] > 0
            before, after = make(stage.inputs["model"], made, place), made[stage.key]
            if row == "sft-init":
                continue
            moved = difference(tiny.weights(before), tiny.weights(after))
            assert moved
            if lora:
                assert not [name for name in moved if "embed" in name or "norm" in name or "head" in name]
                assert max(map(rank, moved.values())) <= RANK
            else:
                assert [name for name in moved if "norm" in name]


def difference(before, after):
    """What a training added to each tensor that it changed, by name."""
    return {name: after[name] - tensor for name, tensor in before.items() if not torch.equal(after[name], tensor)}


def rank(update):
    """The rank of an update, rounding aside."""
    return int(torch.linalg.matrix_rank(update.double(), rtol=1e-4))


def test_the_halves_of_a_prompt_are_its_words_in_order():
    first, second = SHAPES["halves"]("the  old bridge\nover it")
    assert (first, second) == ("the old", "bridge over it")


def test_the_tables_count_cells_and_show_perplexities_and_percents():
    def record(status, **metrics):
        found = {name: {"value": value} for name, value in metrics.items()}
        return {"status": status, "metrics": found, "cost": {"tokens_trained": 10}, "reason": "", "error": ""}

    records = {
        "student": record("done", **{"nll": math.log(8), "rouge-l": 0.25}),
        "sft-init": record("done", nll=math.log(4)),
        "gkd": record("skipped") | {"reason": "it cannot", "metrics": None, "cost": None},
    }
    setting = SHAPES["Setting"]("Llama, hh", records)
    assert setting.line().startswith("| Llama, hh | 2 | 1 | 0 | 20 | ")
    assert setting.line().endswith("| it cannot |")
    assert setting.value("student", "nll") == pytest.approx(8)
    assert setting.value("student", "rouge-l") == 25
    assert setting.value("gkd", "nll") is None
    told = SHAPES["compared"]([setting], "sft-init", "student", "nll", -1)
    assert told.endswith("1 of 1")

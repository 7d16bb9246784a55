"""Tasks of lm-eval as metrics. Those that run it need the extra lm-eval."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic
import tiny

from plad_bench import MissingError, StageError, UsageError
from plad_bench.execute import recording
from plad_bench.execute.stages import files, score
from plad_bench.execute.store import Artifact
from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.loading import load
from plad_bench.plan.chosen import choose
from plad_bench.records import storage
from plad_bench_plugins.metrics import lm_eval

DOCUMENTS = [(f"red house {i}", ["blue river", "old tower", "small garden"], i % 3) for i in range(6)]
TASK = """\
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: "FILE"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A directory with two task files and their data."""
    directory = tmp_path_factory.mktemp("tasks")
    rows = [{"question": q, "choices": c, "answer": a} for q, c, a in DOCUMENTS]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("where", "what"):
        text = TASK.replace("NAME", name).replace("FILE", str(directory / "rows.jsonl"))
        (directory / f"{name}.yaml").write_text(text)
    return directory


def chosen(text):
    return choose(tiny.registry(), "metric", text)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lm_eval, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"needs the package lm-eval\n.*pip install 'plad-bench\[lm-eval\]'"):
        lm_eval.require(lm_eval.LMEvalParams(tasks="where"))
    with pytest.raises(UsageError, match="name the tasks"):
        chosen("lm-eval")


def test_several_tasks_and_no_path_in_a_key(tmp_path):
    (one,) = chosen(f"lm-eval[tasks=' where ,what+which',include_path={tmp_path}]")
    assert one.params.names == ["where", "what", "which"]
    assert str(tmp_path) not in one.label + json.dumps(one.public())


# ------------------------------------------------------------------------------------ examples that a metric brings


OWN = [f"lm-eval:where/{i}" for i in range(4)]


def tables(*names):
    made = {"rouge-l": {"a": 0.1, "b": 0.2}, "lm-eval[tasks=where]": dict(zip(OWN, [1.0, 0.0, 1.0, 1.0], strict=True))}
    return {name: made[name] for name in names}


def test_scores_of_other_examples_share_a_file():
    ids, columns = recording._joined(tables("lm-eval[tasks=where]", "rouge-l"))
    assert ids == ["a", "b", *OWN]
    assert np.isnan(columns["rouge-l"][2:]).all()
    assert np.isnan(columns["lm-eval[tasks=where]"][:2]).all()


def board_of(tmp_path, *, without=()):
    """A board of three methods and three seeds on 40 prompts, with an lm-eval task of 5 documents."""
    random = np.random.default_rng(0)
    label, documents = "lm-eval[tasks=where]", [f"lm-eval:where/{i}" for i in range(5)]
    for k, method in enumerate(("kd", "seqkd", "sft")):
        for seed in range(3):
            prompts = {f"{i:016x}": float(v) for i, v in enumerate(random.normal(k, 1, 40))}
            own = dict(zip(documents, random.normal(-k, 1, 5).tolist(), strict=True))
            made = {"rouge-l": prompts} | ({} if (method, seed) in without else {label: own})
            ids, columns = recording._joined(made)
            scored = {name: (values, "higher", "") for name, values in columns.items()}
            synthetic.put(tmp_path / "b", *synthetic.record(method, seed, columns=scored, ids=ids))
    return load(tmp_path / "b"), label


def test_a_board_keeps_the_examples_of_a_metric_to_that_metric(tmp_path):
    made, label = board_of(tmp_path)
    (group,) = made.groups
    assert made.problems == ()
    assert group.examples == 40
    plain, _ = board_of(tmp_path / "plain", without={(m, s) for m in ("kd", "seqkd", "sft") for s in range(3)})
    others = {row.label: row for row in plain.groups[0].rows}
    for row in group.rows:
        assert row.estimates["rouge-l"] == others[row.label].estimates["rouge-l"]
        scores = np.stack([_read(tmp_path / "b", row.method, seed)[label][-5:] for seed in range(3)])
        assert row.estimates[label] == statistics.estimate(scores)


def test_a_cell_without_the_metric_stays_on_the_board(tmp_path):
    made, _ = board_of(tmp_path, without={("kd", 1)})
    (group,) = made.groups
    assert made.problems == ()
    assert [row.label for row in group.rows] == ["seqkd", "sft"]  # it ranks this board
    (unranked,) = group.unranked
    assert (unranked.label, unranked.reason) == ("kd", "has no value of the primary metric")


def _read(directory, method, seed):
    path = next(directory.glob(f"cells/**/{method}.s{seed}.json"))
    record = storage.read(path)
    return storage.read_scores(path.with_name(record.scores.file), record.scores.sha256)[1]


# --------------------------------------------------------------------------------------------- with the package itself


def run(directory, include_path, **params):
    pytest.importorskip("lm_eval")
    inputs = {}
    for role in ("data", "responses"):
        inputs[role] = Artifact(directory / role, {"document": {"spec": {"split": "test", "max_new_tokens": 4}}})
        inputs[role].path.mkdir(exist_ok=True)
    inputs["responses"].manifest["document"]["spec"]["precision"] = "float32"
    inputs["checkpoint"] = Artifact(directory / "checkpoint", {})
    files.write_prompts(
        inputs["data"].path, [files.Prompt(id="a", split="test", prompt="p", references=(), meta={})], ["test"]
    )
    row = {"id": "a", "responses": [{"text": "t", "ids": None, "tokenizer": "", "finished": True}]}
    files.write_lines(inputs["responses"].path / files.RESPONSES, [row])
    from plad_bench.learn.models import save

    save(tiny.llama(), tiny.tokenizer(), inputs["checkpoint"].path / files.MODEL)
    job = {"metric": tiny.named("metric", "lm-eval", include_path=str(include_path), **params)}
    made = tiny.context(directory, inputs=inputs, job=job)
    score.run(made)
    return json.loads((made.out / files.VALUES).read_text())


@pytest.mark.filterwarnings("ignore")
def test_local_tasks_are_scored_document_by_document(tmp_path, tasks):
    import torch

    values = run(tmp_path, tasks, tasks="where,what")
    assert list(values) == [f"lm-eval:{task}/{i}" for task in ("where", "what") for i in range(6)]
    model, tokenizer = tiny.llama(), tiny.tokenizer()

    def likelihood(question, choice):
        before, ids = (tokenizer(text)["input_ids"] for text in (question, f"{question} {choice}"))
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logprobs[i - 1, ids[i]]) for i in range(len(before), len(ids)))

    for i, (question, choices, answer) in enumerate(DOCUMENTS):
        likeliest = int(np.argmax([likelihood(question, choice) for choice in choices]))
        assert values[f"lm-eval:where/{i}"] == values[f"lm-eval:what/{i}"] == float(likeliest == answer)


@pytest.mark.filterwarnings("ignore")
def test_what_a_task_does_not_have_is_named(tmp_path, tasks):
    with pytest.raises(StageError, match="no metric 'accuracy'") as caught:
        run(tmp_path, tasks, tasks="where", metric="accuracy")
    assert "acc, brier_score" in caught.value.remedy
    with pytest.raises(StageError, match="lower is better for brier_score"):
        run(tmp_path, tasks, tasks="where", metric="brier_score")
    with pytest.raises(StageError, match="no filter 'strict'"):
        run(tmp_path, tasks, tasks="where", filter="strict")


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_is_found_before_any_work(tasks, monkeypatch):
    module = pytest.importorskip("lm_eval.tasks")
    plain = module.TaskManager
    # Without its own tasks, whose files take seconds to read.
    monkeypatch.setattr(module, "TaskManager", lambda **given: plain(**{**given, "include_defaults": False}))
    lm_eval.require(lm_eval.LMEvalParams(tasks="where", include_path=tasks))
    with pytest.raises(MissingError, match="lm-eval has no task 'wher'\n  Did you mean where"):
        lm_eval.require(lm_eval.LMEvalParams(tasks="wher", include_path=tasks))
    with pytest.raises(MissingError, match="no directory"):
        lm_eval.require(lm_eval.LMEvalParams(tasks="where", include_path=tasks / "absent"))

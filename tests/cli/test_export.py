"""Exports: what is in them, that they are the same each time, and that no text of a record is more than text there."""

import csv
import io
import json
import re
import shutil
import subprocess

import hostile
import numpy as np
import pytest
import tiny
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard, parse_eval_result_entries
from synthetic import put, realistic, record

from plad_bench.cli.main import cli
from plad_bench.execute.store import Store
from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.loading import load
from plad_bench.render import latex


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    root = tmp_path_factory.mktemp("boards")
    realistic(root / "demo", seeds=4, examples=40)
    return root


def run(root, *arguments):
    return CliRunner().invoke(cli, ["export", *arguments, "--boards-dir", str(root)], standalone_mode=False)


def exported(root, *arguments):
    result = run(root, *arguments)
    assert result.exception is None, result.exception
    return result.stdout


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


FORMATS = [
    ("csv", "demo"),
    ("csv", "demo", "--estimates"),
    ("csv", "demo", "--compute"),
    ("jsonl", "demo"),
    ("latex", "demo"),
    ("model-index", "plad.s0"),
    ("model-card", "plad.s0"),
]


# --------------------------------------------------------------------------------------------------------- tables


def test_csv_has_a_row_for_each_cell_and_metric_as_recorded(boards):
    found = rows(exported(boards, "csv", "demo"))
    records = [json.loads(path.read_text()) for path in (boards / "demo" / "cells").rglob("*.json")]
    assert len(found) == sum(max(len(r.get("metrics", {})), 1) for r in records)
    by_place = {(row["cell"], row["metric"]): row for row in found}
    for one in records:
        for name, metric in one.get("metrics", {}).items():
            row = by_place[one["cell"], name]
            assert float(row["value"]) == metric["value"]
            assert int(row["n"]) == metric["n"]
            assert (row["better"] or None, row["unit"]) == (metric["better"], metric["unit"])
            assert row["seed"] == str(one["seed"])
    (failed,) = [row for row in found if row["status"] == "failed"]
    assert (failed["metric"], failed["value"]) == ("", "")
    assert "out of memory" in failed["reason"]
    assert float(by_place["demo.tiny/kd.s0", "rouge-l"]["cost.teacher_device_seconds"]) == 212.5


def test_jsonl_says_the_same_as_csv(boards):
    lines = [json.loads(line) for line in exported(boards, "jsonl", "demo").splitlines()]
    table = rows(exported(boards, "csv", "demo"))
    assert [[str(v) if v is not None else "" for v in line.values()] for line in lines] == [
        list(row.values()) for row in table
    ]


def test_estimates_are_those_of_the_page(boards):
    (group,) = load(boards / "demo").groups
    lines = [json.loads(line) for line in exported(boards, "jsonl", "demo", "--estimates").splitlines()]
    plad = next(row for row in group.rows if row.label == "plad")
    (found,) = [line for line in lines if (line["method"], line["metric"]) == ("plad", "rouge-l")]
    estimate = plad.estimates["rouge-l"]
    assert (found["value"], found["low"], found["high"]) == (estimate.value, estimate.low, estimate.high)
    assert ((found["rank_low"], found["rank_high"]), found["best"]) == (plad.rank, plad.best)
    assert (found["reference"], found["seeds"]) == (False, 4)
    assert {line["method"] for line in lines if line["reference"]} == {"teacher", "student", "sft-init"}


def test_latex_has_the_ranked_table_with_references_above(boards):
    text = exported(boards, "latex", "demo")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 3 + 5
    assert {line.count("&") for line in lines} == {5}
    assert r"plad{[}loss=margin{]}" in body
    assert r"missing{-}slots\\(\%) $\downarrow$" in lines[0]
    assert re.search(r"^1-\d & \\raggedright \S+ & \d+\.\d+ \$\\pm\$ \d", body, re.MULTILINE)


def test_the_note_on_daggers_in_latex_comes_with_one_and_not_with_a_method_so_named(tmp_path):
    def latex_of(board, seeds):
        for seed in seeds:
            columns = {"m": (np.linspace(0, 1, 9) + seed, "higher", "")}
            put(tmp_path / board, *record("dagger", seed, columns=columns))
        (tmp_path / board / "board.toml").touch()
        return exported(tmp_path, "latex", board)

    assert "A single record" in latex_of("one", [0])
    assert "A single record" not in latex_of("two", [0, 1])


def test_a_board_of_trials_has_no_table_and_that_is_said(tmp_path):
    put(tmp_path / "b", *record("kd", 0, status="trial", columns={"m": (np.array([1.0, 2]), "higher", "")}))
    (tmp_path / "b" / "board.toml").touch()
    result = run(tmp_path, "latex")
    assert result.stdout.startswith("% Needs")
    assert result.stdout.endswith("\n")
    assert "board b has no table" in result.stderr


def test_parameters_have_the_learning_rate_that_was_trained_with(tmp_path):
    put(tmp_path / "b", *record("kd", 0, params={"lr": 0.0}, columns={"m": (np.array([1.0, 2]), "higher", "")}))
    (tmp_path / "b" / "board.toml").touch()
    (row,) = rows(exported(tmp_path, "csv"))
    assert json.loads(row["params"])["lr"] == float(row["lr"]) > 0


def test_what_is_left_out_of_a_board_is_in_no_table_and_named(boards, tmp_path):
    shutil.copytree(boards, tmp_path / "b")
    (tmp_path / "b" / "demo" / "cells" / "demo.tiny" / "kd.s1.scores.parquet").write_bytes(b"x")
    result = run(tmp_path / "b", "csv", "demo")
    assert "left out: demo/cells/demo.tiny/kd.s1.json: " in result.stderr
    assert "demo.tiny/kd.s1" not in result.stdout
    assert "demo.tiny/kd.s0" in result.stdout


# ----------------------------------------------------------------------------------------------------------- cards


def test_a_model_index_is_one_of_the_hub(boards):
    data = yaml.safe_load(exported(boards, "model-index", "plad.s0"))
    card = ModelCard(f"---\n{exported(boards, 'model-index', 'plad.s0')}---\n")
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    one = json.loads((boards / "demo" / "cells" / "demo.tiny" / "plad.s0.json").read_text())
    assert values["missing-slots"] == pytest.approx(100 * one["metrics"]["missing-slots"]["value"])
    assert values["length"] == pytest.approx(one["metrics"]["length"]["value"])
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "demo", "type": "demo", "split": "test"}
    assert result["metrics"][-1]["name"] == "rouge-l in %, higher is better"


def test_evaluation_results_are_those_of_the_hub_in_its_format(tmp_path):
    data, scores = record("plad", 0, columns={"m": (np.array([0.25, 0.75]), "higher", "%")})
    data["provenance"] |= {"date": "2026-11-27", "notes": {"data": {"origin": {"id": "org/data", "revision": "5f"}}}}
    put(tmp_path / "demo", data, scores)
    (entry,) = parse_eval_result_entries(yaml.safe_load(exported(tmp_path, "eval-results", "plad.s0")))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("org/data", "m", "5f")
    assert (entry.value, entry.date) == (50.0, "2026-11-27")
    assert entry.notes == (
        "m in %, higher is better; mean over 2 prompts of the test split of plad-bench's task demo; seed 0"
    )


def test_data_that_is_not_on_the_hub_has_no_evaluation_results(boards):
    error = run(boards, "eval-results", "plad.s0").exception
    assert "the data of demo is not on the Hub" in str(error)


def test_a_card_says_what_made_the_checkpoint_and_how_good_it_is(boards):
    text = exported(boards, "model-card", "plad.s0")
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert "distillation" in data.tags
    for words in ("`demo-teacher`", "typed = ", "Apache-2.0", "steps = 300", "`1a2b3c4`", "sha256", "over examples"):
        assert words in text
    assert "    plad-bench run --methods kd --seeds 5 --board mine" in text
    assert re.search(r"\| missing-slots \(%\) ↓ \| \d+\.\d ± \d\.\d † \| \d+\.\d ± \d\.\d \| .* † \|", text)
    assert re.search(r"On board `demo` the method has rank [\d-]+ of 5", text)


def test_the_hub_ids_of_base_model_and_data_are_those_of_the_plugins(boards, tmp_path):
    data, scores = record("plad", 0, columns={"m": (np.arange(4.0), "higher", "")})
    data["student"] |= {"name": "llama-1b", "params": {"revision": None}}
    data["task"]["name"] = "e2e"
    put(tmp_path / "demo", data, scores)
    (tmp_path / "demo" / "board.toml").touch()
    card = ModelCard(exported(tmp_path, "model-card", "plad.s0")).data
    assert card.base_model == "meta-llama/Llama-3.2-1B"
    assert card.datasets == ["GEM/e2e_nlg"] or re.fullmatch(r"[\w.-]+/[\w.-]+", card.datasets[0])


def test_the_interval_of_a_record_is_that_of_its_scores(boards):
    (group,) = load(boards / "demo").groups
    teacher = group.baselines[0]
    part = json.loads((boards / "demo" / "cells" / "demo.tiny" / "teacher.s0.json").read_text())["metrics"]["rouge-l"]
    alone = statistics.of_examples(part["value"], part["stderr"], part["n"])
    assert alone.half_width == pytest.approx(teacher.estimates["rouge-l"].half_width)
    assert statistics.of_examples(None, None, 0) is None
    assert np.isnan(statistics.of_examples(1.0, None, 1).half_width)


def test_a_record_that_its_board_leaves_out_has_no_card(boards, tmp_path):
    shutil.copytree(boards, tmp_path / "b")
    path = tmp_path / "b" / "demo" / "cells" / "demo.tiny" / "plad.s0.json"
    data = json.loads(path.read_text())
    data["metrics"]["rouge-l"]["value"] = 0.99
    path.write_text(json.dumps(data))
    for form in ("model-card", "model-index"):
        result = run(tmp_path / "b", form, "plad.s0")
        assert ": was edited" in str(result.exception)
        assert result.exception.exit_code == 2


def test_a_cell_without_scores_has_no_card(boards):
    result = run(boards, "model-card", "gkd.s3")
    assert "has no scores: it is failed" in str(result.exception)


# ----------------------------------------------------------------------------------------------------- checkpoints

PROMPTS = ("the red house", "a river", "old garden near")


def stored(root, *, notes, trained_again=False, scored=True):
    """A board with one record, and a store with a tiny model, its responses to PROMPTS and their scores."""
    from plad_bench.learn import generation, models

    values = np.array([0.25, 0.5, 0.9])
    data, scores = record("plad", 0, columns={"m": (values, "higher", "")})
    data["protocol"]["max_new_tokens"] = 6
    store = Store(root / "store")
    store.prepare()

    def commit(stage, key, inputs, write):
        staging = store.stage_directory(key)
        write(staging)
        document = {"stage": stage, "inputs": inputs, "spec": {}}
        return store.commit(staging, document, key, {"seconds": 1.5, "provenance": {"device": "here"}})

    model, tokenizer = tiny.llama(1), tiny.tokenizer()
    written = generation.generate(model, tokenizer, PROMPTS, generation.Decoding(max_new_tokens=6))
    lines = [json.dumps({"prompt": p, "text": r.text}) for p, r in zip(PROMPTS, written, strict=True)]
    text = "\n".join(lines)
    commit("distill", "1" * 64, {}, lambda path: models.save(model, tokenizer, path / "model"))
    made = commit(
        "generate",
        data["key"],
        {"model": "1" * 64},
        lambda path: (path / "responses.jsonl").write_text(text),
    )
    if scored:
        here = values / 2 if trained_again else values
        table = json.dumps(dict(zip("abc", here, strict=True)))
        commit("score", "0" * 64, {}, lambda path: (path / "values.json").write_text(table))
    other = "f" * 64
    responses = other if trained_again else made.manifest["files"]["responses.jsonl"]["sha256"]
    data["provenance"] |= {"responses": responses, "device": "there", "notes": {"generate": {"prompts": notes}}}
    data["provenance"]["notes"]["data"] = {"origin": {"id": "org/data", "revision": "5f"}}
    data["cost"] = {"train_device_seconds": 77.0}
    put(root / "demo", data, scores)
    (root / "demo" / "board.toml").touch()
    return [r.text for r in written]


NOTED = {"text": "<s>{prompt}\n", "end": "</s>"}


@pytest.mark.parametrize("notes", [{}, NOTED], ids=["unrecorded", "recorded"])
def test_a_checkpoint_with_the_code_of_its_card_writes_what_was_scored(tmp_path, notes):
    written = stored(tmp_path, notes=notes)
    told = exported(tmp_path, "checkpoint", "plad.s0", str(tmp_path / "out"), "--store", str(tmp_path / "store"))
    assert told == f"{tmp_path / 'out'}\n"
    card = (tmp_path / "out" / "README.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(source.replace("DIRECTORY", str(tmp_path / "out")), names)
    assert [names["respond"](prompt) for prompt in PROMPTS] == written
    assert "\n| m ↑ | 0.6 ± " in card
    assert "trained again" not in card
    assert "`there`" in card
    assert ("followed by one line break" in card) == (not notes)


@pytest.mark.parametrize("scored", [True, False])
def test_a_card_states_scores_of_the_weights_beside_it_alone(tmp_path, scored):
    """The record on the board is another machine's, whose weights have the same key and other numbers."""
    stored(tmp_path, notes=NOTED, trained_again=True, scored=scored)
    result = run(tmp_path, "checkpoint", "plad.s0", str(tmp_path / "out"), "--store", str(tmp_path / "store"))
    assert result.exception is None
    assert "come from another training than those of its record" in result.stderr
    told = tmp_path / "out" / ".eval_results" / "plad-bench.yaml"
    assert told.exists() == scored
    if scored:
        assert [entry["value"] for entry in yaml.safe_load(told.read_text())] == [pytest.approx(0.275)]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**These weights were trained again, and are not those of the record on board `demo`.**" in card
    values = [r.metric_value for r in ModelCard(card).data.eval_results or []]
    assert values == ([pytest.approx(0.275)] if scored else [])
    assert ("The store has no scores of these weights" in card) == (not scored)
    assert not re.search(r"`there`|77|0\.55", card)


# --------------------------------------------------------------------------------------------------------- delivery


@pytest.mark.parametrize("arguments", FORMATS, ids=" ".join)
def test_exports_are_the_same_each_time_and_hold_no_path(boards, arguments):
    text = exported(boards, *arguments)
    assert text == exported(boards, *arguments)
    assert text.endswith("\n")
    assert str(boards) not in text


@pytest.mark.parametrize("arguments", FORMATS, ids=" ".join)
def test_a_file_gets_what_stdout_gets(boards, tmp_path, arguments):
    assert exported(boards, *arguments, "-o", str(tmp_path / "out")) == ""
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert text == exported(boards, *arguments)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert json.loads(exported(boards, *arguments, "--json")) == {"format": arguments[0], "text": text}


# ---------------------------------------------------------------------------------------------------------- hostile


VALID = [text for text in hostile.TEXTS if "\ud800" not in text]
"""The other is no text: records with it are refused (test_board.py)."""


@pytest.fixture(params=VALID, ids=range(len(VALID)))
def evil(request, tmp_path):
    hostile.board(tmp_path / "b", request.param)
    return tmp_path


def test_hostile_text_stays_in_its_cell_of_a_csv_and_is_no_formula(evil):
    for options in ((), ("--estimates",)):
        text = exported(evil, "csv", "b", *options)
        table = list(csv.reader(io.StringIO(text)))
        assert len({len(row) for row in table}) == 1
        assert len(text.splitlines()) == len(table)
        for cell in (cell for row in table for cell in row):
            assert not cell.startswith(("=", "@", "+", "-")) or re.fullmatch(r"-?[\d.e+-]+", cell)
            assert not set(cell) & set("\x00\x1b\u202e\r\n\t")


def test_hostile_text_stays_a_string_of_jsonl(evil):
    text = exported(evil, "jsonl", "b")
    assert text.isascii()
    assert all(json.loads(line)["board"] == "b" for line in text.splitlines())


def test_hostile_text_is_text_in_latex(evil):
    text = exported(evil, "latex", "b")
    commands = {"usepackage", "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "pm", "dag",
                "textsuperscript", "uparrow", "downarrow", "dots", "small", "smallskip", "setlength", "tabcolsep",
                "raggedright", "hspace"}  # fmt: skip
    names = set(re.findall(r"\\([a-zA-Z]+)", text))
    assert {name for name in names if name not in commands and not name.startswith("text")} == set()
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {5}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_hostile_text_is_text_in_a_card(evil):
    text = exported(evil, "model-card", "kd.s0")
    _, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front)
    assert set(data) == {"library_name", "pipeline_tag", "tags", "model-index"}
    hostile.assert_no_markup(body)
    assert yaml.safe_load(exported(evil, "model-index", "kd.s0"))["model-index"] == data["model-index"]


def compiled(directory, text):
    """What pdflatex says of a minimal document with the two packages that the first line of an export names."""
    packages = r"\usepackage{booktabs}\usepackage[T1]{fontenc}"
    document = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{text}\n\\clearpage\\end{{document}}\n"
    (directory / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-draftmode", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    made = subprocess.run(command, cwd=directory, capture_output=True, check=False)
    assert made.returncode == 0, made.stdout.decode(errors="replace")[-2000:]
    return made.stdout.decode(errors="replace")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
def test_latex_compiles_whatever_a_record_holds(tmp_path):
    for place, text in enumerate(VALID):
        hostile.board(tmp_path / f"b{place}", text)
    letters = latex.escape("".join(map(chr, range(0x20, 0x250))), 1000)
    said = compiled(tmp_path, exported(tmp_path, "latex") + letters)
    assert "Missing character" not in said


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
def test_latex_fits_on_the_page(tmp_path):
    rng = np.random.default_rng(0)
    for method in ("teacher", "kd", "plad[beta=1,logprob=mean,sft_weight=3]"):
        columns = {f"metric-{k}[scorer=slot-errors]": (100 * rng.random(9), "lower", "words") for k in range(7)}
        data, scores = record(method, 0, columns=columns)
        put(tmp_path / "b", data, scores)
    (tmp_path / "b" / "board.toml").touch()
    text = exported(tmp_path, "latex", "b")
    assert text.count(r"\begin{table}") > 1
    assert all(text.count(rf"metric{{-}}{k}\\") == 1 for k in range(7))
    assert "Overfull" not in compiled(tmp_path, text)


@pytest.mark.parametrize("text", hostile.TEXTS)
def test_every_character_of_latex_is_known_or_spelt(text):
    escaped = latex.escape(text)
    plain = re.sub(r"\\(text\w+|dots)\{\}|\\[{}$&#_%]|\{[-,?!\[\]*]\}|\$(-|\\pm)\$", "", escaped)
    assert re.fullmatch(r"[\w\s.:;=/()+@]*", plain), plain
    assert all(c.isascii() or c.isalpha() for c in plain)


def test_numbers_beyond_all_measure_are_exported_as_they_are(tmp_path):
    put(tmp_path / "b", *record("kd", 0, columns={"m": (np.full(3, 1e99), "higher", "")}))
    (tmp_path / "b" / "board.toml").touch()
    assert float(rows(exported(tmp_path, "csv", "b"))[0]["value"]) == pytest.approx(1e99)
    assert "e+99" in exported(tmp_path, "latex", "b")
    assert "1e+99" in exported(tmp_path, "model-card", "kd.s0")

"""The command line through its real entry point: the main job, resuming, reading commands, what stops a run, plans."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from program import PROGRAM, plad_bench
from waiting import wait_for

from plad_bench.records import storage

PLUGIN = Path(__file__).parents[1] / "plugins" / "mini.py"
RUN = [
    *(
        "-p",
        str(PLUGIN),
        "run",
        "--task",
        "mini",
        "--methods",
        "sft,kd,plad,squared",
        "--seeds",
        "2",
        "--board",
        "mine",
    ),
    *("--teacher", "scratch[layers=1,width=24,heads=2,vocabulary=300,steps=8]"),
]
FEWER = [*RUN, "--methods", "kd,plad", "--seeds", "1"]
"""Five of the thirteen cells of RUN."""


def records(directory):
    """Every record of the board `mine`, by cell."""
    found = {}
    for path in sorted((directory / "leaderboards" / "mine" / "cells").rglob("*.json")):
        record = storage.read(path)
        found[record.cell] = record
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A directory in which a small run went through undisturbed."""
    directory = tmp_path_factory.mktemp("done")
    result = plad_bench(*RUN, cwd=directory)
    assert result.returncode == 0, result.stderr
    directory.joinpath("stdout").write_text(result.stdout)
    directory.joinpath("stderr").write_text(result.stderr)
    return directory


# ------------------------------------------------------------------------------------------------- the main job


def test_run_writes_a_record_per_cell_and_a_board(done):
    found = records(done)
    rows = {(r.method.name, r.seed) for r in found.values()}
    methods = {(m, s) for m in ("sft", "kd", "plad", "squared", "sft-init", "student") for s in (0, 1)}
    assert rows == methods | {("teacher", 0)}
    assert {r.status for r in found.values()} == {"done"}
    for record in found.values():
        assert set(record.metrics) == {"rouge-l", "length", "agreement"}
        assert record.metrics["rouge-l"].better == "higher"
        assert record.metrics["rouge-l"].n > 5
    page = (done / "leaderboards" / "mine" / "README.md").read_text()
    assert "plad" in page
    assert "squared" in page
    assert list((done / "leaderboards" / "mine" / "plots").glob("*.svg"))


def test_run_prints_the_table_on_stdout_and_the_counts_on_stderr(done):
    assert "plad" in (done / "stdout").read_text()
    assert "13 done, 0 cached, 0 skipped, 0 failed" in (done / "stderr").read_text()


def test_all_methods_of_a_seed_share_their_warm_start_and_its_seed_differs(done):
    found = records(done)
    timing = {r.method.name: r.timing for r in found.values() if r.seed == 0}
    assert (
        timing["sft"]["sft-init"]
        == timing["kd"]["sft-init"]
        == timing["plad"]["sft-init"]
        == timing["sft-init"]["sft-init"]
    )
    assert {r.key for r in found.values() if r.method.name == "sft-init" and r.seed == 0} != {
        r.key for r in found.values() if r.method.name == "sft-init" and r.seed == 1
    }


def test_no_path_of_this_machine_enters_a_board(done):
    for path in (done / "leaderboards").rglob("*"):
        if path.suffix in {".json", ".md", ".toml", ".svg", ".csv"}:
            text = path.read_text()
            assert str(done) not in text, path
            assert str(PLUGIN.parent) not in text, path


def test_curves_lie_beside_the_records_and_pair_methods_log_their_pairs(done):
    curve = next((done / "leaderboards" / "mine" / "cells").rglob("plad/seed-0.curve.csv")).read_text()
    assert curve.splitlines()[0] == "step,lr,loss,logprob_chosen,logprob_rejected,accuracy,margin,gradient_norm"


def test_a_finished_run_does_no_work_and_imports_no_torch(done):
    probe = done / "probe"
    probe.mkdir(exist_ok=True)
    (probe / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch imported:', 'torch' in sys.modules, file=sys.stderr))\n"
    )
    before = {p: p.read_bytes() for p in (done / "leaderboards").rglob("*") if p.is_file()}
    path = os.pathsep.join([str(probe), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = plad_bench(*RUN, cwd=done, PYTHONPATH=path)
    assert result.returncode == 0
    assert "0 done, 13 cached" in result.stderr
    assert "torch imported: False" in result.stderr
    assert {p: p.read_bytes() for p in (done / "leaderboards").rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_a_new_metric_is_scored_without_training_anything(done, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    (tmp_path / "copy" / "store" / "runs").rename(tmp_path / "old-runs")
    result = plad_bench(*FEWER, "--metrics", "rouge-l,rouge-1", cwd=tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    assert {p.name.split("-")[0] for p in (tmp_path / "copy" / "store" / "runs").rglob("*.log")} == {"score"}
    record = next(r for r in records(tmp_path / "copy").values() if (r.method.name, r.seed) == ("kd", 0))
    assert set(record.metrics) == {"rouge-l", "length", "agreement", "rouge-1"}


@pytest.mark.slow
def test_every_registered_method_goes_from_plan_to_board(done, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    result = plad_bench(*RUN, "--seeds", "1", "--methods", "all", "--controls", "--board", "all", cwd=tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    assert "0 skipped, 0 failed" in result.stderr
    cells = (tmp_path / "copy" / "leaderboards" / "all" / "cells").rglob("*.json")
    found = [storage.read(path) for path in cells]
    listed = json.loads(plad_bench("-p", str(PLUGIN), "plugins", "methods", "--json", cwd=tmp_path).stdout)
    methods = {m["name"] for m in listed["components"]["method"]}
    assert methods == {r.method.name for r in found} - {"teacher", "student", "sft-init"}
    assert len(methods) >= 25
    assert all(r.metrics["rouge-l"].value is not None for r in found)


# ---------------------------------------------------------------------------------------------- kill and resume


def _start(directory):
    with (directory / "said").open("wb") as said:
        return subprocess.Popen(
            [*PROGRAM, *FEWER],
            cwd=directory,
            env={**os.environ, "PLAD_BENCH_STORE": str(directory / "store")},
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
            # a shell that started the tests in the background may have had them ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
        )


def _jobs(directory, stage):
    return list((directory / "store" / "runs").glob(f"*/{stage}-*.progress"))


def _workers(driver):
    """Processes whose session is the driver's: its fork server and their children."""
    listed = subprocess.run(["ps", "-s", str(driver), "-o", "pid="], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in listed.split() if int(p) != driver]


def _same_records(disturbed, done):
    found, undisturbed = records(disturbed), records(done)
    assert len(found) == 5
    assert {cell: r.essence() for cell, r in found.items()} == {cell: undisturbed[cell].essence() for cell in found}


@pytest.mark.slow
def test_sigkill_of_the_driver_then_the_same_command_gives_the_same_records(done, tmp_path):
    driver = _start(tmp_path)
    wait_for(lambda: _jobs(tmp_path, "distill"))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not _workers(driver.pid), 30)  # nobody works on for a driver that is gone
    assert len(records(tmp_path)) < 5
    status = plad_bench("status", "--json", cwd=tmp_path)
    assert json.loads(status.stdout)[0]["finished"] == "killed"
    result = plad_bench(*FEWER, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    _same_records(tmp_path, done)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again(done, tmp_path):
    driver = _start(tmp_path)
    wait_for(lambda: _jobs(tmp_path, "teacher"))
    children = sorted(_workers(driver.pid))
    os.kill(children[-1], signal.SIGKILL)
    assert driver.wait(timeout=600) == 0
    _same_records(tmp_path, done)


@pytest.mark.slow
def test_ctrl_c_exits_130_and_leaves_nothing_running(tmp_path):
    driver = _start(tmp_path)
    wait_for(lambda: _jobs(tmp_path, "teacher"))
    for _ in range(3):  # the impatient press it again
        os.killpg(driver.pid, signal.SIGINT)
        time.sleep(0.01)
    assert driver.wait(timeout=60) == 130
    wait_for(lambda: not _workers(driver.pid), 30)
    said = (tmp_path / "said").read_text()
    assert f"To resume: {shlex.join(['plad-bench', *FEWER])}\n" in said
    assert said.rstrip().endswith("Interrupted.")


@pytest.mark.slow
@pytest.mark.parametrize("flip", ["responses.jsonl", "manifest.json"])
def test_an_altered_artifact_is_noticed_and_rebuilt(done, tmp_path, flip):
    shutil.copytree(done, tmp_path / "copy")
    copy = tmp_path / "copy"
    path, record = next((c, r) for c, r in records(copy).items() if r.method.name == "kd" and r.seed == 1)
    artifact = copy / "store" / "artifacts" / record.key[:2] / record.key / flip
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    verify = plad_bench("cache", "verify", cwd=copy)
    assert verify.returncode == 1
    assert record.key[:12] in verify.stdout
    (copy / "leaderboards" / "mine" / "cells" / f"{path}.json").unlink()
    for score in copy.joinpath("store", "artifacts").glob("*/*/values.json"):
        if record.key in score.with_name("manifest.json").read_text():
            shutil.rmtree(score.parent)
    assert plad_bench(*RUN, cwd=copy).returncode == 0
    assert plad_bench("cache", "verify", cwd=copy).returncode == 0
    assert records(copy)[path].essence() == record.essence()


# ------------------------------------------------------------------------------------------------ reading commands


def test_leaderboard_check_tells_a_page_that_does_not_match_its_records(done, tmp_path):
    shutil.copytree(done / "leaderboards", tmp_path / "leaderboards")
    assert plad_bench("leaderboard", "--check", cwd=tmp_path).returncode == 0
    page = tmp_path / "leaderboards" / "mine" / "README.md"
    original = page.read_bytes()
    page.write_text("I win.")
    result = plad_bench("leaderboard", "mine", "--check", cwd=tmp_path)
    assert result.returncode == 1
    assert "README.md" in result.stdout
    assert plad_bench("leaderboard", cwd=tmp_path).returncode == 0
    assert page.read_bytes() == original


def test_check_fails_on_a_record_that_is_broken(done, tmp_path):
    shutil.copytree(done / "leaderboards", tmp_path / "leaderboards")
    next((tmp_path / "leaderboards").rglob("kd/seed-0.json")).write_text("{")
    assert plad_bench("leaderboard", cwd=tmp_path).returncode == 0
    result = plad_bench("leaderboard", "--check", cwd=tmp_path)
    assert result.returncode == 1
    assert "kd/seed-0.json: " in result.stdout


def test_show_prints_scores_parameters_and_samples(done):
    result = plad_bench("show", "mine/mini", cwd=done)
    assert result.returncode == 2
    assert "matches 13 cells" in result.stderr
    shown = plad_bench("show", "plad/seed-1", "--json", cwd=done)
    assert shown.returncode == 0, shown.stderr
    record = json.loads(shown.stdout)
    assert record["method"]["params"]["beta"] == record["method"]["params"]["beta"]
    assert len(record["samples"]) == 3
    assert record["samples"][0]["prompt"].startswith("thing[")
    printed = plad_bench("show", "plad/seed-1", "--samples", "0", cwd=done).stdout
    assert "rouge-l" in printed
    assert re.search(r"^  packages:$\n(    \S+: \S+$\n)+", printed, re.MULTILINE)
    assert "{'" not in printed  # a table within a table has lines of its own


def test_what_a_stage_noted_is_shown_a_line_each():
    from plad_bench.cli.show import _told

    notes = {
        "data": {"bad_rows": ["a.csv, row 2: empty", "a.csv, row 9: empty"], "origin": {"id": "x", "revision": None}}
    }
    assert list(_told("notes", notes, "  ")) == [
        "  notes:",
        "    data:",
        "      bad_rows:",
        "        1: a.csv, row 2: empty",
        "        2: a.csv, row 9: empty",
        "      origin:",
        "        id: x",
        "        revision: None",
    ]
    assert list(_told("notes", {}, "")) == ["notes: none"]


def test_show_puts_the_texts_of_a_prompt_side_by_side_while_the_store_has_them(done, tmp_path):
    def samples(cell, *options):
        return json.loads(plad_bench("show", cell, "--samples", "2", "--json", *options, cwd=done).stdout)

    plad, teacher = (samples(cell)["samples"] for cell in ("plad/seed-1", "teacher/seed-0"))
    assert [set(sample) for sample in plad] == [{"prompt", "reference", "teacher", "response"}] * 2
    assert [s["teacher"] for s in plad] == [s["response"] for s in teacher]
    assert [s["prompt"] for s in plad] == [s["prompt"] for s in teacher]
    assert "teacher" not in teacher[0]
    assert "colour" not in plad[0]["reference"]
    gone = samples("plad/seed-1", "--store", str(tmp_path))
    assert gone["samples"] == []
    assert "are not in the store" in gone["samples_missing"]
    told = plad_bench("show", "plad/seed-1", "--store", str(tmp_path), cwd=done)
    assert told.returncode == 0
    assert "No samples: the responses of mini/" in told.stderr
    wide = plad_bench("show", "plad/seed-1", "--samples", "1", cwd=done).stdout
    assert re.search(r"^reference +teacher +response *$", wide, re.MULTILINE)
    narrow = plad_bench("show", "plad/seed-1", "--samples", "1", cwd=done, COLUMNS="80").stdout
    assert "\nteacher: " in narrow


@pytest.mark.slow
def test_what_cannot_run_and_rows_left_out_are_said(tmp_path):
    rows = [{"prompt": f"a walk by river {n} and wood {7 * n}", "response": f"walk {n}"} for n in range(60)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    (tmp_path / "said.jsonl").write_text((tmp_path / "mine.jsonl").read_text())
    result = plad_bench(
        *("run", "--task", "jsonl[path=mine.jsonl]", "--teacher", "recorded[path=said.jsonl]", "--student", "tiny"),
        *("--methods", "kd,seqkd", "--limit", "4", "--sft-steps", "1", "--steps", "1", "--max-new-tokens", "4"),
        *("--sft-lr", "3e-3", "--lr", "1e-3", "--metrics", "length"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("Board trial: 4 cells to run (1 method and 3 baselines, 1 seed), 1 skipped.\n")
    assert "\nskipped: kd: kd needs the teacher's logits" in result.stderr
    assert re.search(r"1 rows? of jsonl\S+ left out; the first: mine.jsonl, line 61: not JSON", result.stderr)


def test_plan_tells_cached_from_missing(done):
    options = [a for a in RUN if a != "run"]
    result = plad_bench(*options[:2], "plan", *options[2:], "--methods", "sft,dpo", "--json", cwd=done)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    states = {row["cell"].split("/")[2]: row["state"] for row in plan["cells"]}
    assert states == {"teacher": "cached", "student": "cached", "sft-init": "cached", "sft": "cached", "dpo": "to run"}
    missing = {s["stage"] for s in plan["stages"] if not s["cached"]}
    assert missing == {"reference", "distill", "generate", "score"}


def test_export_checkpoint_is_loaded_by_transformers_and_survives_prune(done, tmp_path):
    shutil.copytree(done, tmp_path / "copy")
    result = plad_bench("export", "checkpoint", "plad/seed-0", "exported", cwd=tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert "# `" in (tmp_path / "copy" / "exported" / "README.md").read_text()
    modes = {path.stat().st_mode for path in (tmp_path / "copy" / "exported").iterdir()}
    assert len(modes) == 1, "others may read the weights as well as the card"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "copy" / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copy" / "exported")
    assert model.config.vocab_size == len(tokenizer)
    pruned = json.loads(plad_bench("cache", "prune", "--days", "0", "--json", cwd=tmp_path / "copy").stdout)
    assert pruned["removed"]
    assert plad_bench("export", "checkpoint", "kd/seed-1", "again", cwd=tmp_path / "copy").returncode == 0
    refused = plad_bench("export", "checkpoint", "kd/seed-1", "again", cwd=tmp_path / "copy")
    assert refused.returncode == 2
    assert "not an empty directory" in refused.stderr


def test_cache_ls_and_du_agree(done):
    listed = json.loads(plad_bench("cache", "ls", "--json", cwd=done).stdout)
    sizes = json.loads(plad_bench("cache", "du", "--json", cwd=done).stdout)
    assert sum(row["bytes"] for row in listed) == sum(s["bytes"] for s in sizes.values())
    assert sizes["distill"]["artifacts"] == 8


def test_status_tells_of_the_finished_run(done):
    (state,) = json.loads(plad_bench("status", "--all", "--json", cwd=done).stdout)[-1:]
    assert state["finished"] == "finished"
    assert state["cells"]["done"] == 13


def test_plugins_lists_components_and_names_a_broken_file(tmp_path):
    result = plad_bench("-p", str(PLUGIN), "plugins", "--json", cwd=tmp_path)
    assert "squared" in {m["name"] for m in json.loads(result.stdout)["components"]["method"]}
    listed = plad_bench("plugins", "pairs", cwd=tmp_path, COLUMNS="80").stdout
    assert listed.startswith("pair builders, from plad-bench ")
    assert "\nreference-over-student  A control" in listed  # a name is whole, to be copied
    assert "from  " not in listed.splitlines()[1]
    students = plad_bench("plugins", "students", cwd=tmp_path, COLUMNS="80").stdout
    assert "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T " in students  # nor is a model's id broken
    assert all(line == line.rstrip() for line in students.splitlines())
    assert "lr=0" not in plad_bench("plugins", "methods", cwd=tmp_path).stdout  # that rate is the board's
    mixed = plad_bench("-p", str(PLUGIN), "plugins", "methods", cwd=tmp_path, COLUMNS="80").stdout.splitlines()
    assert mixed[0].strip() == "methods"
    assert mixed[1].split() == ["name", "what", "parameters", "from"]
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    result = plad_bench("-p", "broken.py", "plugins", cwd=tmp_path)
    assert result.returncode == 4
    assert "nothing_of_that_name" in result.stderr


# ------------------------------------------------------------------------------------------------- what stops a run


def test_a_board_that_contradicts_the_command_line_shows_both_values(done):
    result = plad_bench(*RUN, "--steps", "5", cwd=done)
    assert result.returncode == 2
    assert "steps = 4" in result.stderr
    assert "sets 5" in result.stderr
    assert "teacher_logprobs is 'top'" in plad_bench(*RUN, "--teacher-logprobs", "top", cwd=done).stderr


def test_an_unwritable_store_is_named_and_records_stay_intact(done, tmp_path):
    shutil.copytree(done / "leaderboards", tmp_path / "leaderboards")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    (tmp_path / "file").write_text("")
    result = plad_bench(*RUN, "--seeds", "3", "--store", "file/store", cwd=tmp_path)
    assert result.returncode == 3
    assert "cannot write" in result.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before


@pytest.mark.slow
def test_a_full_disk_is_named_and_nothing_is_half_written(done, tmp_path):
    shutil.copytree(done / "leaderboards", tmp_path / "leaderboards")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    # a limit on the size of files is a disk that is full for whatever is larger
    limited = f'ulimit -f 40; exec {" ".join(PROGRAM)} "$@"'
    result = subprocess.run(
        ["bash", "-c", limited, "bash", *RUN, "--seeds", "3"],
        cwd=tmp_path,
        env={**os.environ, "PLAD_BENCH_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 3, result.stderr
    assert "Free some space" in result.stderr or "cannot write" in result.stderr
    assert {p: p.read_bytes() for p in before} == before
    assert not list((tmp_path / "store").rglob("*.tmp"))


# -------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.slow
def test_a_trial_goes_to_a_board_of_its_own(tmp_path):
    def boards(*options):
        result = plad_bench("run", "--dry-run", "--json", *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    # An earlier trial binds the next only where its board is named.
    (tmp_path / "leaderboards" / "trial").mkdir(parents=True)
    (tmp_path / "leaderboards" / "trial" / "board.toml").write_text("[protocol]\nsteps = 7\n")
    limited = {stage["key"] for stage in boards("--limit", "9", "--steps", "5")["stages"]}
    named = {stage["key"] for stage in boards("--limit", "9", "--board", "trial")["stages"]}
    assert named == {stage["key"] for stage in boards("--limit", "9", "--steps", "7")["stages"]}
    assert limited != named
    assert limited.isdisjoint({s["key"] for s in boards()["stages"] if s["stage"] in {"distill", "sft-init"}})


@pytest.mark.parametrize(
    ("gpus", "asked", "board", "expected"),
    [
        ((), None, "", "float32"),
        ((0,), None, "", "bf16"),
        ((0,), "float32", "", "float32"),
        ((0,), None, '[protocol]\nprecision = "float32"\n', "float32"),
    ],
)
def test_the_device_chooses_the_precision_that_nobody_fixed(tmp_path, gpus, asked, board, expected):
    from plad_bench.cli.plan import plan
    from plad_bench.cli.state import State
    from plad_bench.running.setup import prepare

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "board.toml").write_text(board)
    given = ["--board", "mine", "--boards-dir", str(tmp_path), "--store", str(tmp_path / "store"), "--methods", "sft"]
    options = plan.make_context("plan", [*given, *(["--precision", asked] if asked else [])]).params
    planned = prepare(State().registry, options, gpus)
    assert {cell.protocol.precision for cell in planned.cells} == {expected}
    teacher = next(cell for cell in planned.cells if cell.row == "teacher").checkpoint
    assert teacher.spec["precision"] == "float32"  # the same teacher whatever the students run on

"""What users get wrong, through the entry point: the exit code, one message with a remedy, never a traceback."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import hubserver
import pytest
import tiny
from program import plad_bench
from standin import endpoint

from plad_bench.cli.main import main
from plad_bench.contract.errors import MissingError
from plad_bench.contract.money import Budget
from plad_bench.learn import models
from plad_bench_plugins import _data_files

PLUGIN = str(Path(__file__).parents[1] / "plugins" / "mini.py")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory with a model."""
    place = tmp_path_factory.mktemp("published") / "model"
    models.save(tiny.llama(seed=1), tiny.tokenizer(), place)
    return place


@pytest.fixture
def place(published, tmp_path, monkeypatch):
    """An empty directory to run in, beside a hub with things that may not be had; nobody is logged in."""
    from huggingface_hub import constants

    with hubserver.serving() as hub:
        hub.publish("org/model", published)
        hub.publish("org/gated", published, gated=True)
        hub.publish("org/private", published, private=True)
        for name, values in (("ENDPOINT", hub.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(tmp_path / "hub"))):
            monkeypatch.setattr(constants, name, values)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        for name in ("HF_TOKEN", "OPENAI_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))
        (tmp_path / "work" / "half").mkdir()
        (tmp_path / "work" / "half" / "config.json").write_text('{"model')
        (tmp_path / "work" / "half" / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes())
        (tmp_path / "work" / "empty").mkdir()
        (tmp_path / "work" / "notes.txt").write_text("hello")
        yield hub


BAD = {
    "no such model": (
        "--task demo --student 'hf[id=org/none]'",
        3,
        "model org/none is not on the hub",
        "Check the name",
    ),
    "a gated model": ("--task demo --student 'hf[id=org/gated]'", 3, "model org/gated is gated", "Request access"),
    "no token": (
        "--task demo --student 'hf[id=org/private]'",
        3,
        "org/private is not on the hub, or is private",
        "hf auth login",
    ),
    "no such directory": ("--task demo --student 'hf[path=nowhere]'", 3, "no directory", "Give path="),
    "no model's directory": (
        "--task demo --student 'hf[path=empty]'",
        3,
        "empty has no config.json",
        "Hugging Face format",
    ),
    "half a configuration": (
        "--task demo --student 'hf[path=half]'",
        3,
        "config.json cannot be read",
        "Fix it or download",
    ),
    "no such data set": ("--task 'hub[id=org/none]'", 3, "data set org/none is not on the hub", "Check the name"),
    "a gated data set": ("--task 'hub[id=org/gated]'", 3, "data set org/gated is gated", "Request access"),
    "no such file": ("--task 'jsonl[path=nowhere.jsonl]'", 3, "nowhere.jsonl does not exist", "Give a file"),
    "a file of another kind": (
        "--task 'tldr[path=notes.txt]'",
        3,
        "contains no file of a supported kind",
        "Give a file",
    ),
    "no file named": ("--task jsonl", 2, "give path=", ""),
    "no recorded file": (
        "--teacher 'recorded[path=nowhere.jsonl]'",
        3,
        "nowhere.jsonl is not, and does not contain",
        "Give a file",
    ),
    "no key": ("--teacher 'openai[model=m]'", 3, "OPENAI_API_KEY is not set", ""),
}


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize("case", BAD)
def test_it_is_told_before_any_work(place, capsys, tmp_path, case, verb):
    pytest.importorskip("datasets")
    wrong, code, message, remedy = BAD[case]
    with pytest.raises(SystemExit) as ended:
        main([verb, "--student", "tiny", "--teacher", "small", "--methods", "seqkd,gkd", *shlex.split(wrong)])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    assert message in captured.err
    assert remedy in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "work" / "leaderboards").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--methods", "plda"], 2, ["unknown method 'plda'", "plad"]),
        (["--student", "tyni"], 2, ["unknown student 'tyni'", "tiny"]),
        (["--task", "dmeo"], 2, ["unknown task 'dmeo'", "demo"]),
        (["--methods", "kd[temprature=2]"], 2, ["temprature", "temperature"]),
        (["--methods", "kd[temperature=0]"], 2, ["kd[temperature=0]", "number > 0"]),
        (["--methods", "plad[loss=rnak]"], 2, ["rank or margin"]),
        (["--methods", "plad[loss=rank"], 2, ["cannot parse"]),
        (["--methods", ","], 5, ["selects no method"]),
        (["--seeds", "0"], 2, ["seeds"]),
        (["--stpes", "3"], 2, ["--steps"]),
        (["-p", "mine.py"], 2, ["No such option '-p'", "plad-bench -p FILE run"]),
        (["--task", "e2e[path=nowhere]"], 3, ["nowhere"]),
        (["--gpus", "97"], 3, ["no GPU 97", "--gpus none"]),
        (["--board", "../escape"], 2, ["'../escape' is not a valid name for a board", "letters, digits"]),
        (["--board", "a b"], 2, ["'a b' is not a valid name for a board"]),
        (["--teacher", "gpt-4o-mini"], 2, ["Did you mean openai[model=gpt-4o-mini]?"]),
        (["--student", "Qwen/Qwen2.5-0.5B"], 2, ["Did you mean hf[id=Qwen/Qwen2.5-0.5B]"]),
        (["--student", "../some"], 2, ["Did you mean hf[path=../some]"]),
        (["--teacher", "smal"], 2, ["Did you mean small or "]),
        (
            ["--methods", "kd", "--teacher", "recorded[path=said.jsonl]"],
            5,
            ["none of the methods can run", "kd: kd needs"],
        ),
    ],
)
def test_bad_input_is_named_with_a_remedy(tmp_path, arguments, code, words):
    (tmp_path / "some").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "said.jsonl").write_text(json.dumps({"prompt": "a", "response": "b"}))
    tmp_path = tmp_path / "here"
    result = plad_bench("run", *arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "leaderboards").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nowhere.invalid"])
def test_a_model_that_cannot_be_reached_exits_3_before_any_work(tmp_path, url):
    result = plad_bench(
        *("run", "--methods", "plad,kd", "--student", "llama-1b", "--task", "demo"),
        cwd=tmp_path,
        HF_ENDPOINT=url,
        HF_HOME=str(tmp_path / "hf"),
    )
    assert result.returncode == 3, result.stderr
    assert "meta-llama/Llama-3.2-1B" in result.stderr
    assert "hf download" in result.stderr
    assert not (tmp_path / "store").exists()


def test_a_mistyped_command_lists_near_matches(tmp_path):
    result = plad_bench("rnu", cwd=tmp_path)
    assert result.returncode == 2
    assert "run" in result.stderr


def test_a_config_file_holds_options_and_a_wrong_key_is_named(tmp_path):
    (tmp_path / "good.toml").write_text('methods = ["sft", "kd"]\nsteps = 7\n')
    result = plad_bench("plan", "--config", "good.toml", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {row["cell"].split("/")[2] for row in json.loads(result.stdout)["cells"]} >= {"sft", "kd"}
    (tmp_path / "bad.toml").write_text("stpes = 7\n")
    result = plad_bench("plan", "--config", "bad.toml", cwd=tmp_path)
    assert result.returncode == 2
    assert "steps" in result.stderr


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.jsonl").write_text("{}")
    opened = Path.open

    def refuse(path, *arguments, **more):  # root may read everything, so permissions are no test
        if path.name == "secret.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["run", "--task", "jsonl[path=secret.jsonl]", "--student", "tiny"])
    assert ended.value.code == 3
    assert "secret.jsonl cannot be read: Permission denied\n  Make it readable" in capsys.readouterr().err
    with pytest.raises(MissingError, match=r"secret\.jsonl cannot be read"):
        list(_data_files.rows(_data_files.listed(tmp_path / "secret.jsonl")))


@pytest.mark.slow
def test_teachers_that_cannot_teach_fail_their_cells_with_the_reason(tmp_path):
    """Of one run: an endpoint that is down, one that says nothing, and a file with bad lines."""
    examples = runpy.run_path(PLUGIN)["examples"](None)
    good = [json.dumps({"prompt": e.prompt, "response": e.references[0]}) for e in examples]
    bad = ['{"prompt": "x"', b'{"prompt": "\xff"}'.decode("latin-1")]
    (tmp_path / "few.jsonl").write_text("\n".join([*good, *bad]), encoding="latin-1")
    with endpoint(reply=lambda prompt: "") as server:
        teachers = (
            "recorded[path=few.jsonl]",
            f"openai[model=mute,base_url={server.url}]",
            "openai[model=away,base_url=http://127.0.0.1:9/v1,retries=0]",
        )
        made = subprocess.run(
            [
                *(sys.executable, "-m", "plad_bench", "-p", PLUGIN, "run", "--task", "mini", "--methods", "none"),
                *("--teacher", ",".join(teachers), "--metrics", "length", "--limit", "8", "--board", "mine"),
                *("--sft-steps", "1", "--max-new-tokens", "4", "--gpus", "none", "--workers", "1"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PLAD_BENCH_STORE": str(tmp_path / "store"), "OPENAI_API_KEY": "k"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert made.returncode == 1, made.stderr
    assert "Traceback" not in made.stderr
    told = made.stderr
    assert "2 rows of recorded[path=few.jsonl" in told
    assert "few.jsonl, line 201: not JSON" in told
    assert "every response of teacher openai[model=mute" in told
    assert "the endpoint of away cannot be reached: no connection" in told
    assert told.count("\nfailed: ") == 2


def test_a_purse_of_nonsense_buys_nothing(tmp_path):
    for content in ("", "nan", "inf", "12,5", "\x00"):
        (tmp_path / "spent").write_text(content)
        with pytest.raises(MissingError, match="cannot read the amount that this run has spent from spent"):
            Budget(tmp_path / "spent", limit=1.0).reserve(0.1)
        assert (tmp_path / "spent").read_text() == content


def test_random_weights_at_a_fine_tuning_rate_are_remarked_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))
    rows = [json.dumps({"prompt": f"question {i}", "response": f"answer {i}"}) for i in range(90)]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    plan = ["plan", "--task", "jsonl[path=mine.jsonl]", "--student", "scratch", "--methods", "sft"]

    def remarks(*more):
        with pytest.raises(SystemExit) as ended:
            main([*plan, "--json", *more])
        assert ended.value.code == 0
        captured = capsys.readouterr()
        said = json.loads(captured.out)["remarks"]
        assert all(f"Note: {remark}" in captured.err for remark in said)
        return said

    (remark,) = remarks()
    assert "scratch on jsonl[path=mine.jsonl" in remark
    assert "--sft-lr 1e-05 and --lr 1e-05" in remark
    (remark,) = remarks("--sft-lr", "3e-3")
    assert "weights: --lr 1e-05" in remark
    assert remarks("--sft-lr", "3e-3", "--lr", "1e-3") == []
    assert remarks("--sft-steps", "0", "--lr", "1e-3") == []

"""Every command of README and docs, run word for word by a shell in a fresh copy of the repository.

What trains is made small by variables of the environment, and what needs something that no test has (a model of the
hub, a GPU, an endpoint) must end with exit code 3 and name it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
from pages import PAGES, ROOT, inline_commands, page_files, python_script, shell_lines

from plad_bench.contract.errors import ExitCode

SMALL = {"STEPS": "2", "SFT_STEPS": "2", "MAX_NEW_TOKENS": "4", "BATCH": "4"}
"""Options of `run` that a page does not give, so that no command trains for long."""

NEEDS = {
    "openai[": "gpt-4o-mini|NAME",
    "llama-1b": "Llama-3.2-1B|no GPU|trl-lib/tldr",
    "qwen-0.5b": "trl-lib/tldr",
    "qwen-7b": "trl-lib/tldr",
    "llama-8b": "trl-lib/tldr",
    "tinyllama": "trl-lib/tldr",
    "jsonl[path=": "SmolLM",
    "hub[id=ORG/NAME": "ORG/NAME",
    "vllm": "vllm",
    "ray": "ray",
    "--slow": "",
}
"""Part of a command -> what it asks for and a test does not have."""

INSTALLS = ("pip install", "-m pytest", "/ruff ", "hf download")
"""Commands that .ci/run executes itself, in a fresh virtual environment, and one that needs the hub."""

COUNTS = {"README", "publish", "quickstart", "read-a-board", "own-data"}
"""Pages that read a board that counts, so that their runs are no trials."""


def page_commands(page: Path) -> list[str]:
    """The commands of a page in its order; of an installation, what it installs for."""
    text = page.read_text(encoding="utf-8")
    lines = [line.rpartition(" && ")[2] if "pip install" in line else line for line in shell_lines(text)]
    return [line for line in [*lines, *inline_commands(text)] if not any(part in line for part in INSTALLS)]


def slow(page: Path, command: str) -> bool:
    """All but the commands of the README that neither train nor read what an earlier one of them trained."""
    return page.name != "README.md" or " run" in command or "quickstart/" in command


COMMANDS = [
    pytest.param(page, command, marks=[pytest.mark.slow] if slow(page, command) else [], id=f"{page.name}: {command}")
    for page in PAGES
    if page.name != "cli.md"
    for command in page_commands(page)
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A function: page -> a copy of the tracked files for its commands, with the data that the page speaks of."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout: which files a clone has is for git to say")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name and not name.startswith("tests/")]

    @cache
    def of(page: Path) -> Path:
        root = tmp_path_factory.mktemp(page.stem)
        for file in filter(Path.is_file, files):
            target = root / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        (root / ".venv").symlink_to(sys.prefix)
        user_data(root)
        return root

    return of


def user_data(root: Path) -> None:
    """The files that a reader of the pages has: rows of their own, responses of a teacher, the method of the README."""
    rows = [{"prompt": f"the {n}th walk by river {7 * n}", "response": f"walk {n} is long"} for n in range(90)]
    write_rows(root / "mine.jsonl", rows)
    write_rows(root / "prompts.jsonl", [{"prompt": row["prompt"]} for row in rows])
    papers = [{"source": [tiny.sentence(n, 20), tiny.sentence(n, 9)], "target": tiny.sentence(n, 5)} for n in range(90)]
    write_rows(root / "papers.jsonl", papers)
    write_rows(root / "train.jsonl", rows[:70])
    write_rows(root / "test.jsonl", rows[70:])
    write_rows(root / "all.jsonl", [{**row, "part": "test" if n % 5 else "train"} for n, row in enumerate(rows)])
    posts = [
        {"subreddit": "walks", "title": f"walk {n}", "post": tiny.sentence(n, 30), "summary": tiny.sentence(n, 5)}
        for n in range(200)
    ]
    write_rows(root / "posts.jsonl", posts)
    (root / "DIR").mkdir()
    meanings = [f"name[Place {n}], food[{food}]" for n in range(40) for food in ("Thai", "French")]
    table = "".join(f'"{meaning}","{meaning.split("[")[1].split("]")[0]} serves food."\n' for meaning in meanings)
    (root / "DIR" / "rows.csv").write_text(f"mr,ref\n{table}", encoding="utf-8")
    for name, source in page_files().items():
        (root / name).write_text(source, encoding="utf-8")
    for seed, name in enumerate(("student", "teacher")):
        template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
        tiny.llama(seed, max_position_embeddings=1024).save_pretrained(root / name)
        tiny.tokenizer(template=template).save_pretrained(root / name)
    from plad_bench_plugins.tasks import demo

    (task,) = (record for record in demo.RECORDS if getattr(record, "name", "") == "demo")
    answers = [{"prompt": e.prompt, "response": e.references[0]} for e in task.load(task.params())]
    write_rows(root / "responses.jsonl", answers)


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def environment(store: Path, **options: str) -> dict[str, str]:
    """The environment of a command: without the hub, a proxy and a key that count, and with options of `run`."""
    return {
        **os.environ,
        **{f"PLAD_BENCH_RUN_{name}": value for name, value in options.items()},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PLAD_BENCH_STORE": str(store),
        "PLAD_BENCH_RUN_GPUS": "none",
        "HF_HOME": str(store / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "OPENAI_API_KEY": "none",
    }


def shell(command: str, root: Path, store: Path) -> subprocess.CompletedProcess[str]:
    board = re.search(r"--board (\S+)", command)
    begun = board is not None and (root / "leaderboards" / board[1] / "board.toml").is_file()
    small = {} if begun else SMALL  # a board that was begun keeps its conditions
    if not begun and root.name.rstrip("0123456789") not in COUNTS:  # there a board is read that counts
        small = {**small, "LIMIT": "8"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=root, env=environment(store, **small), capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_of_the_pages_does_what_it_says(page, command, clone, store):
    result = shell(command, clone(page), store)
    missing = [words for part, words in NEEDS.items() if part in command]
    told = f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    assert "Traceback" not in result.stderr, told
    if result.returncode == ExitCode.MISSING and missing:
        assert any(word in result.stderr for words in missing for word in words.split("|")), told
    else:
        assert result.returncode == 0, told


SCRIPTS = {page: script for page in PAGES if (script := python_script(page.read_text(encoding="utf-8")))}


@pytest.mark.slow
@pytest.mark.parametrize("page", SCRIPTS, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_after_its_commands(page, clone, store):
    variables = {**environment(store), "PYTHONPATH": "examples"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPTS[page]],
        cwd=clone(page), env=variables, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]


def test_what_commands_need_is_on_the_pages():
    commands = [param.values[1] for param in COMMANDS]
    assert [part for part in NEEDS if not any(part in command for command in commands)] == []


def test_a_cell_of_a_board_is_found_among_boards_with_names_alike():
    """The README's cell is on two committed boards whose names begin alike; the first part of a name is the board."""
    from plad_bench.cli.board_lookup import find_record

    boards = ROOT / "leaderboards"
    assert len(list(boards.glob("*/cells/demo/tiny+small/plad/seed-0.json"))) > 1
    for name in ("demo/demo/tiny+small/plad/seed-0", "demo/tiny+small/plad/seed-0", "demo/plad/seed-0"):
        path, _ = find_record(name, boards)
        assert path == boards / "demo/cells/demo/tiny+small/plad/seed-0.json"

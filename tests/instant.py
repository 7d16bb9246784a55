"""The program with a launcher that makes every artifact at once, in this process, from nothing but its key.

Planning, the engine, the worker's bookkeeping, the store and the records are the real ones; no model is made.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

from click.testing import CliRunner

from plad_bench import LauncherSession, StageProcess
from plad_bench.cli.main import cli
from plad_bench.execute import worker
from plad_bench_plugins.launchers import local

PROMPTS = [{"id": f"{k:016x}", "prompt": f"p{k}", "references": ["r"], "meta": {}} for k in range(4)]


class Done(StageProcess):
    """A stage that has ended."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code

    def kill(self):
        pass


class Instant(LauncherSession):
    """One slot, in which a stage takes no time; `made` has the name of each."""

    slots, device = 1, "cpu"

    def __init__(self, made):
        self.made = made

    def start(self, job, log, slots):
        self.made.append(json.loads(job.read_text())["document"]["stage"])
        return Done(worker.main(str(job)))

    def close(self):
        pass


def operation(context):
    """Files of every kind that a record is made from."""
    rows = {
        "values.json": json.dumps({row["id"]: k / 4 for k, row in enumerate(PROMPTS)}),
        "responses.jsonl": "".join(
            json.dumps({"id": row["id"], "responses": [{"text": "t", "ids": [1], "finished": True}]}) + "\n"
            for row in PROMPTS
        ),
    }
    for split in ("train", "validation", "test"):
        rows[f"{split}.jsonl"] = "".join(json.dumps({**row, "split": split}) + "\n" for row in PROMPTS)
    for name, text in rows.items():
        (context.out / name).write_text(text)


class Program:
    """`plad-bench` in a directory; each call gives its result, and the stages it made are in `made`."""

    def __init__(self, directory, monkeypatch):
        self.made = []
        self.directory = directory
        monkeypatch.chdir(directory)
        monkeypatch.setenv("PLAD_BENCH_STORE", str(directory / "store"))
        monkeypatch.setattr(local, "LocalSession", lambda options: Instant(self.made))
        monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=operation))
        monkeypatch.setattr(worker, "_set_threads", lambda threads, operation: None)

    def __call__(self, *arguments, code=0, **environment):
        self.made.clear()
        result = CliRunner().invoke(cli, [*arguments], env=environment, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        assert result.return_value == code, result.output
        return result

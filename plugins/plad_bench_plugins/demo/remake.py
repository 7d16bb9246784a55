"""Makes the demo's shipped teacher again: `python -m plad_bench_plugins.demo.remake [STORE]`.

It is the artifact of an ordinary teacher stage, with its training curve, and with the scores of the teacher's row on
the test split. It takes about five minutes on one core.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from plad_bench import LaunchOptions
from plad_bench.contract.registry import Registry
from plad_bench.execute.engine import Engine, raise_for
from plad_bench.execute.store import Store
from plad_bench.plan import matrix, spec
from plad_bench.plan.cell import Cell
from plad_bench.plan.chosen import choose
from plad_bench.records.storage import summarise

ARTIFACTS = Path(__file__).parent / "artifacts"


def teacher_cell(registry: Registry) -> Cell:
    """The baseline of the demo's default teacher."""
    run = spec.build(registry, task="demo", methods="none")
    return next(cell for cell in matrix.cells(run, registry) if cell.row == "teacher")


def main(store: Path) -> None:
    """Train, score, and move the artifact to its place in the package."""
    import numpy as np

    registry = Registry.load()
    cell = teacher_cell(registry)
    (launcher,) = choose(registry, "launcher", "local")
    options = LaunchOptions(workers=2, threads=1, gpus=(), store=store)
    opened = Store(store)
    opened.prepare()
    engine = Engine(opened, lambda: launcher.component.open(launcher.params, options), store / "remake", threads=1)
    engine.run([[*cell.scores.values(), cell.checkpoint]], lambda: None)
    for failure in engine.failures.values():
        raise_for(failure)
    artifact = engine.artifacts[cell.checkpoint.key]
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    shutil.copytree(artifact.path, ARTIFACTS / artifact.key[:16])
    scores = {}
    for label, stage in cell.scores.items():
        values = json.loads((engine.artifacts[stage.key].path / "values.json").read_text()).values()
        value, n, stderr = summarise(np.array([np.nan if v is None else v for v in values], dtype=np.float64))
        scores[label] = {"value": value, "n": n, "stderr": stderr}
    text = json.dumps({"teacher": cell.teacher.label, "split": cell.protocol.split, "scores": scores}, indent=1)
    (ARTIFACTS / "scores.json").write_text(text + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory))

"""A training of the world of tests/tiny.py, and an engine that runs it in the slots of a launcher."""

from __future__ import annotations

import shutil

import tiny

from plad_bench import LaunchOptions
from plad_bench.execute.engine import Engine, Options, Watcher
from plad_bench.execute.store import Store
from plad_bench.plan.stage import Stage
from plad_bench_plugins.launchers import local

INPUTS = {"data": Stage("data", "data", {}), "model": Stage("init", "init", {})}


def training(**spec):
    """A SFT initialisation on the world of tests/tiny.py."""
    usual = {"steps": 3, "lr": 1e-2, "batch": 6, "seed": 0, "precision": "float32", "threads": 1}
    job = {"method": tiny.named("method", "sft")}
    return Stage("sft-init", "train", {**usual, **spec}, INPUTS, job, owner="SFT initialisation")


def stocked(world, directory, stages=INPUTS):
    """A store that has the data and a model, or other artifacts of the world."""
    made = Store(directory / "store")
    made.prepare()
    for role, stage in stages.items():
        staging = made.stage_directory(stage.key)
        shutil.copytree(world.inputs[role].path, staging, dirs_exist_ok=True)
        made.commit(staging, stage.document, stage.key, {"counts": {}, "cost": {}})
    return made


def run(store, stage, *, session=None, ranks=2, shard=False, teacher_gpus=1, watcher=None, plugins=(), **options):
    """The engine, after it has made a stage: by default in two slots of this machine."""
    opened = session or (lambda: local.LocalSession(LaunchOptions(workers=2, threads=1, gpus=(), store=store.root)))
    engine = Engine(
        store,
        opened,
        store.root / "runs" / "mine",
        threads=1,
        plugins=plugins,
        options=Options(**options),
        watcher=watcher or Watcher(),
        ranks=ranks,
        shard=shard,
        teacher_gpus=teacher_gpus,
    )
    engine.run([[stage]], lambda: None)
    return engine

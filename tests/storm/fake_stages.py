"""Stages that stand for those that run models: hashes in place of weights, and as much time as a storm needs to hit.

What they share with the real ones is all that a storm is about: files in a staging directory, checkpoints in partial/,
progress, and results that are a function of their inputs. The fork server of the launcher `fake` imports this module
instead of torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import types

import httpx2  # noqa: F401
import rouge_score.rouge_scorer  # noqa: F401

import plad_bench.execute.stages.ask
import plad_bench.execute.stages.data
import plad_bench.execute.stages.pairs
import plad_bench.execute.stages.score
import plad_bench.execute.worker  # noqa: F401
from plad_bench.contract.examples import Response
from plad_bench.contract.jsonlines import write_lines
from plad_bench.contract.registry import KINDS, Registry
from plad_bench.execute.stages.files import (
    CURVE,
    LOGPROBS,
    MODEL,
    PAIRS,
    RESPONSES,
    read_lines,
    read_prompts,
    response_row,
)
from plad_bench.execute.store import RESPONSE_CACHE

STEP_S = 0.01
CHECKPOINT_EVERY = 4
WORDS = ["the", "a", "red", "green", "blue", "door", "lamp", "boat", "coat", "cup", "hat", "key", "map", "is", "in"]


def digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def tokenizer(context):
    (context.out / "tokenizer").mkdir()
    (context.out / "tokenizer" / "tokenizer.json").write_text(json.dumps(context.spec))


def init(context):
    _save(context, digest("init", json.dumps(context.spec, sort_keys=True)))


def train(context):
    model = (context.inputs["model"].path / MODEL / "weights").read_text()
    files = [artifact.manifest["files"].items() for _, artifact in sorted(context.inputs.items())]
    # The answers of an endpoint lie in the order in which they came; what was made of them does not.
    inputs = [[(name, entry) for name, entry in found if name != RESPONSE_CACHE] for found in files]
    state = digest(model, json.dumps(context.spec, sort_keys=True), json.dumps(inputs, sort_keys=True))
    checkpoint, steps, first, curve = context.partial / "checkpoint.pt", context.spec["steps"], 0, []
    try:
        saved = json.loads(checkpoint.read_text())
        if saved.pop("check") == digest(json.dumps(saved)):
            state, first, curve = saved["state"], saved["step"], saved["curve"]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    for step in range(first, steps):
        time.sleep(STEP_S)
        state = digest(state, step)
        curve.append({"step": step, "loss": int(state[:4], 16) / 65536})
        context.progress(step + 1, steps, loss=curve[-1]["loss"])
        if (step + 1) % CHECKPOINT_EVERY == 0:
            saved = {"state": state, "step": step + 1, "curve": curve}
            temporary = checkpoint.with_suffix(".tmp")
            temporary.write_text(json.dumps({**saved, "check": digest(json.dumps(saved))}))
            temporary.replace(checkpoint)
    context.cost["tokens_trained"] = steps
    write_lines(context.out / CURVE, curve)
    _save(context, state)


def _save(context, state):
    (context.out / MODEL).mkdir()
    (context.out / MODEL / "weights").write_text(state)
    (context.out / MODEL / "config.json").write_text("{}")
    (context.out / MODEL / "padding.bin").write_bytes(os.urandom(0) + state.encode() * 500)  # a disk must fill


def generate(context):
    model = (context.inputs["model"].path / MODEL / "weights").read_text()
    prompts = read_prompts(context.inputs["data"], context.spec["split"], context.spec.get("limit", 0))
    rows = []
    for number, prompt in enumerate(prompts):
        mark = digest(model, prompt.prompt, json.dumps(context.spec, sort_keys=True))
        text = " ".join(WORDS[int(mark[i : i + 2], 16) % len(WORDS)] for i in range(0, 16, 2))
        rows.append({"id": prompt.id, "responses": [response_row(Response(text=text))]})
        context.progress(number + 1, len(prompts))
    time.sleep(5 * STEP_S)
    context.counts |= {"unfinished": 0, "empty": 0}
    write_lines(context.out / RESPONSES, rows)


def reference(context):
    rows = read_lines(context.inputs["pairs"].path / PAIRS)
    (context.out / LOGPROBS).write_text(json.dumps([{"reference": digest(json.dumps(row))} for row in rows]))


for _stage in (tokenizer, init, train, generate, reference):
    _module = types.ModuleType(f"plad_bench.execute.stages.{_stage.__name__}")
    _module.run = _stage
    sys.modules[_module.__name__] = _module
_torch = types.ModuleType("torch")
_torch.set_num_threads = lambda threads: None
sys.modules["torch"] = _torch

_registry = Registry.load()
for _kind in KINDS:
    _registry.components(_kind)

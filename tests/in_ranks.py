"""Run by torchrun in test_ranks.py and test_sharding.py: each rank trains its part, and the first writes the results.

torchrun --nproc_per_node N tests/in_ranks.py DIRECTORY CASE...
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import tiny
import torch
from torch import distributed

from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.learn import adapters, models, ranks, sharding, training
from plad_bench.learn.length import StepCount
from plad_bench.learn.objectives import PairLoss, TokenLoss
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.sequences import Order, Tokens, collate
from plad_bench.learn.steps import TokenSteps

HERE = Path(__file__)
OFTEN = {"SAVE_EVERY": 4, "PARTS": 2, "LOG_EVERY": 1}
"""For a training of six steps: save the fourth one, and note every loss."""
STEPS, BATCH = 3, 7
SEQUENCES = [  # ragged: seven do not divide by two or three, and their lengths differ
    [Tokens([0, 5 + i, 6], [(7 * i + j) % 290 + 5 for j in range(1 + (3 * i) % 6)] + [1])] for i in range(9)
]
METHODS = {name: found[0].component for name, found in tiny.registry().components("method").items()}


def steps(name, student, cost, copy=None):
    """The module and the steps of a token method, its fixed text being SEQUENCES."""
    method = METHODS[name]
    params = tiny.registry().configure(method, {})
    teacher = tiny.llama(2) if method.objective.teacher_logits else None
    module = TokenLoss(student, teacher, params)
    texts = method.objective.texts(params)
    prompts = [several[0].prompt for several in SEQUENCES]
    rollouts = Rollouts(copy or student, teacher, tiny.tokenizer(), max_new_tokens=5, seed=0, cost=cost)
    made = TokenSteps(
        method.objective,
        params,
        module,
        examples=[f"example-{i}" for i in range(len(SEQUENCES))],
        prompts=prompts,
        fixed=dict.fromkeys(texts, SEQUENCES),
        order=Order([len(p) for p in prompts], BATCH, 0),
        rollouts=sharding.ShardedSampler(rollouts, copy, student) if copy else rollouts,
        validation=[several[0] for several in SEQUENCES],
        cost=cost,
        seed=0,
        pad=2,
        device="cpu",
    )
    return module, made


class Pairs(training.Steps):
    """Three steps of pairs."""

    def at(self, number, share):
        count = 0 if number == STEPS - 1 else BATCH - number  # the last step has no pair: all were dropped
        chosen = [s[0] for s in SEQUENCES[:count]]
        rejected = [s[0] for s in SEQUENCES[::-1][:count]]

        def micro(size):
            size, made = ranks.even(size, count), []
            for i in range(0, count, size):
                batch = collate(chosen[i : i + size] + rejected[i : i + size], 2)
                known = torch.full((len(chosen[i : i + size]),), -20.0)
                scores = {
                    "reference_chosen": known,
                    "reference_rejected": known - 1,
                    "chosen_score": known / 10,
                    "rejected_score": known / 20,
                }
                made.append({"batch": batch, "scores": scores, "total": count})
            return made

        return training.Step(micro, count, sum(len(s.response) for s in chosen + rejected))


def pairs(name, student):
    """The module and the steps of a pair method."""
    method = METHODS[name]
    return PairLoss(student, method.objective, tiny.registry().configure(method, {})), Pairs()


def small(model):
    """Let the last rank's device hold two sequences at a time."""

    def check(_, __, given):
        if ranks.rank() == ranks.count() - 1 and len(given["input_ids"]) > 2:
            raise MemoryError

    model.register_forward_pre_hook(check, with_kwargs=True)


def full(data):
    """The steps, where the last rank has no room for more than two sequences even before a model sees them."""
    at = data.at

    def short(number, share):
        step = at(number, share)

        def micro(size):
            if ranks.rank() == ranks.count() - 1 and size > 2:
                raise MemoryError
            return step.micro_batches(size)

        return replace(step, micro_batches=micro)

    data.at = short


def start(directory, count, cases):
    """Compute some cases in a number of ranks; each result lies in a file of its own."""
    several = ["-m", "torch.distributed.run", "--nproc_per_node", str(count)] if count > 1 else []
    found = subprocess.run(
        [sys.executable, *several, str(HERE), str(directory), *cases],
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-3000:]


def result(directory, case, count):
    """What `start` computed."""
    return json.loads((directory / f"{case.replace(':', '-')}-{count}.json").read_text())


class StoppedError(Exception):
    """Stands for a kill."""


def sharded(name, how, directory):
    """Train a student that several ranks divide among them, and return weights and curve.

    `how` lists what is special: a micro-batch, gpt2, untied, bf16, checkpointing, lora. `until-4` stops a training of
    six steps after its checkpoint of step 4, and `from-N` goes on with the checkpoint that N ranks wrote.
    """
    how = how.split(",")
    size = next((int(one) for one in how if one.isdecimal()), 0)
    sizes = {"num_hidden_layers": 2, "tie_word_embeddings": "untied" not in how}
    student, cost = tiny.gpt2(1) if "gpt2" in how else tiny.llama(1, **sizes), {}
    copy = tiny.llama(0, **sizes) if ranks.count() > 1 else None
    if "lora" in how:
        adapters.adapt(student, 2, 0)
    start = {key: value.tolist() for key, value in student.state_dict().items()}
    if "checkpointing" in how:
        models.checkpoint(student)
    pair = hasattr(METHODS[name].objective, "reference")
    module, data = pairs(name, student) if pair else steps(name, student, cost, copy)
    file = directory / f"{name}-until-4-{ranks.count()}.pt"
    if origin := next((one for one in how if one.startswith("from")), ""):
        file = directory / f"{name}-{origin}-in-{ranks.count()}.pt"
        if not ranks.rank():
            shutil.copy(directory / f"{name}-until-4-{origin.removeprefix('from-')}.pt", file)
        ranks.gather([])  # the others wait for the file

    def progress(step, total, **values):
        if "until-4" in how and step == 5:
            raise StoppedError

    curve = []
    try:
        made = training.train(
            module,
            data,
            length=StepCount(6 if origin or "until-4" in how or "six" in how else STEPS),
            lr=1e-2,
            seed=0,
            precision="bf16" if "bf16" in how else "float32",
            device="cpu",
            checkpoint=file,
            progress=progress,
            memory_policy=MemoryPolicy(size),
            shard=ranks.count() > 1,
        )
        curve = made.curve
    except StoppedError:
        assert "until-4" in how
    weights = {key: ranks.whole(value).tolist() for key, value in student.state_dict().items()}
    parts = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in student.parameters())
    return {"start": start, "weights": weights, "curve": curve, "parts": parts, "cost": cost}


def trained(name, how, directory):
    """Train, and return weights, curve and counts."""
    student, cost, memory_policy = tiny.llama(1), {}, MemoryPolicy(int(how) if how.isdecimal() else 0)
    if how == "small":
        small(student.base_model)
    kind = pairs if hasattr(METHODS[name].objective, "reference") else steps
    module, data = kind(name, student, *([] if kind is pairs else [cost]))
    if how == "full":
        full(data)
    result = training.train(
        module,
        data,
        length=StepCount(STEPS),
        lr=1e-2,
        seed=0,
        precision="float32",
        device="cpu",
        checkpoint=directory / f"{name}-{ranks.rank()}.pt",
        progress=lambda *_, **__: None,
        memory_policy=memory_policy,
    )
    return {
        "weights": {key: value.tolist() for key, value in student.state_dict().items()},
        "curve": result.curve,
        "tokens": result.tokens,
        "cost": cost,
        "micro_batch": memory_policy.micro_batch,
        "memory": data.state().get("schedule", {}),
    }


def wrapped(name, how):
    """Loss and gradient of one whole batch under a wrapper of torch's, each rank having its part."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    method = METHODS[name]
    student = tiny.llama(1)
    whole = [several[0] for several in SEQUENCES]
    batch = collate(ranks.share(whole), 2)
    if hasattr(method.objective, "reference"):
        batch = collate([*ranks.share(whole[:4]), *ranks.share(whole[4:8])], 2)
        module = PairLoss(student, method.objective, tiny.registry().configure(method, {}), rows=3)
        arguments = {"batch": batch, "scores": {}, "total": 4}
    else:
        module = TokenLoss(student, tiny.llama(2), tiny.registry().configure(method, {}), rows=3)
        total = sum(len(s.response) for s in whole)
        arguments = {"term": method.objective.terms[0], "batch": batch, "total": total}
    if ranks.count() > 1:
        module = DistributedDataParallel(module) if how == "ddp" else fully_shard(module)
    loss, _ = module(**arguments)
    (loss * ranks.count()).backward()  # both wrappers average
    grads = {}
    for key, parameter in student.named_parameters():
        gradient = parameter.grad
        grads[key] = (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).tolist()
    return {"loss": ranks.add({"loss": float(loss.detach())})["loss"], "gradient": grads}


def main(directory, cases):
    """Do all that is asked."""
    torch.use_deterministic_algorithms(True)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    for case in cases:
        name, how = case.split(":")
        if how.startswith("sharded"):
            vars(training).update(OFTEN)
            found = sharded(name, how.removeprefix("sharded"), directory)
        else:
            found = wrapped(name, how) if how in {"ddp", "fsdp"} else trained(name, how, directory)
        if ranks.rank() == 0:
            (directory / f"{name}-{how}-{ranks.count()}.json").write_text(json.dumps(found))
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # all is written, and torch's threads may abort a process that Python takes down in order

"""A training step of plad-bench beside the same step of TRL and of a plain PyTorch loop.

    python benchmarks/peers.py                                   # a CPU: 5 M teacher, 1 M student, some minutes
    python benchmarks/peers.py --device cuda --shape 1b          # a GPU of 80 GB: 3 B teacher, 1 B student, bf16
    python benchmarks/peers.py --shape 49k --steps sft,kd        # SmolLM2's words and width on a CPU, 2 to 4 layers
    python benchmarks/peers.py --shape 49k --vocabulary 151936 --tokens 64 --steps sft,kd   # the words of Qwen
    python benchmarks/peers.py --steps sft,gkd --sides loop,ours --json peers.json

All sides get the same initial weights, the same sequences (random tokens; one global batch, again and again), AdamW,
clipping and, on a GPU, float32 weights under bf16 autocast, without activation checkpointing. The loss of the first
step is printed so that one sees that the work is the same (on-policy text is sampled, so there it is alike only). The
peak of memory is that of the device's allocator, or on Linux of the process; beside it is what plan/resources.py
estimates for ours with the teacher in memory. The sides take turns within one process. A time is the median over all
steps but the first two of each turn: processor time on a CPU, wall-clock time on a GPU. `dpo` has its reference log-
probabilities precomputed on all sides.

The plain loop makes logits of response tokens alone, as plad-bench does: it is what a step costs at least without
chunking. On-policy it reads and samples as many tokens as there may be, with the model's own cache of keys and values.
TRL (1.16) is a side where it is importable; forward KL is its GKD with beta 0, and it has no PLaD. Its on-policy loss
is divided by the tokens of the given text, not by those that it sampled.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name
from words import tokenizer as of_words

from plad_bench.execute import outlook
from plad_bench.plan import resources

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocabulary": 4096, "batch": 8, "prompt": 64, "response": 190,
        "student": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4},
        "teacher": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
    },
    "49k": {
        "vocabulary": 49152, "batch": 4, "prompt": 64, "response": 192,
        "student": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 9,
                    "num_key_value_heads": 3},
        "teacher": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9,
                    "num_key_value_heads": 3},
    },
    "1b": {
        "vocabulary": 128256, "batch": 8, "prompt": 128, "response": 384,
        "student": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                    "num_attention_heads": 32, "num_key_value_heads": 8},
        "teacher": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
                    "num_attention_heads": 24, "num_key_value_heads": 8},
    },
}  # fmt: skip
STEPS = {
    "sft": "SFT on given text",
    "kd": "forward KL on given text",
    "jsd": "JSD (beta 0.5) on given text",
    "dpo": "DPO, reference precomputed",
    "plad": "PLaD (rank, sums, anchor)",
    "gkd": "JSD (beta 0.5) on-policy",
}
SIDES = ("loop", "ours", "trl")
CLIP = 1.0
LR = 1e-5


@dataclass
class Work:
    """What every side trains on."""

    shape: dict[str, Any]
    device: str
    new_tokens: int
    sequences: list[tuple[list[int], list[int]]] = field(default_factory=list)
    rejected: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        batch, prompt, longest = self.shape["batch"], self.shape["prompt"], self.shape["response"]

        def ids(count: int) -> list[int]:
            return torch.randint(3, self.shape["vocabulary"], (count,), generator=generator).tolist()

        def response() -> list[int]:
            return [*ids(int(torch.randint(longest // 2, longest, (), generator=generator))), 1]

        prompts = [ids(prompt) for _ in range(batch)]
        self.sequences = [(p, response()) for p in prompts]
        self.rejected = [(p, response()) for p in prompts]
        self.teacher = self.model("teacher", 7).eval().requires_grad_(False)  # noqa: FBT003
        if self.cuda:
            self.teacher = self.teacher.to(torch.bfloat16)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def model(self, role: str, seed: int) -> Any:
        """A Llama with random weights of the student's or the teacher's shape, on the device."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.shape["vocabulary"], max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=2, **self.shape[role],
        )  # fmt: skip
        torch.manual_seed(seed)
        with torch.device(self.device):
            return LlamaForCausalLM(config)

    def student(self) -> Any:
        """The student as every side begins with it."""
        return self.model("student", 0)

    def tokenizer(self) -> Any:
        """One that says the random tokens."""
        return of_words(self.shape["vocabulary"])

    def autocast(self) -> Any:
        """bf16 arithmetic on a GPU."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.cuda)


@dataclass
class Turn:
    """What one turn of one side measured."""

    loss: float
    seconds: list[float]
    bytes: int


class Clock:
    """Seconds between calls: processor time on a CPU, wall-clock time on a GPU."""

    def __init__(self, work: Work) -> None:
        self.work, self.seconds = work, []
        self.last = self.now()

    def now(self) -> float:
        """The time."""
        if not self.work.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def tick(self) -> None:
        """The end of a step."""
        now = self.now()
        self.seconds.append(now - self.last)
        self.last = now


# --------------------------------------------------------------------------------------------------- the plain loop


def padded(work: Work, sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, mask, and labels where there is a response, each [B, T]."""
    longest = max(len(p) + len(r) for p, r in sequences)
    ids = torch.full((len(sequences), longest), 2)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(sequences):
        both = torch.tensor(prompt + response)
        ids[row, : len(both)], mask[row, : len(both)] = both, 1
        labels[row, len(prompt) : len(both)] = both[len(prompt) :]
    return ids.to(work.device), mask.to(work.device), labels.to(work.device)


def divergence(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Forward KL (beta 0) or the Jensen-Shannon divergence, [N], of logits [N, V], written plainly."""
    log_q, log_p = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    if beta == 0:
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    mixed = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    of_p, of_q = (log_p.exp() * (log_p - mixed)).sum(-1), (log_q.exp() * (log_q - mixed)).sum(-1)
    return beta * of_p + (1 - beta) * of_q


def response_logits(model: Any, ids: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Logits of the response tokens alone, [N, V]: what needs no logits gets none."""
    return model.lm_head(
        model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][valid]
    )


def logprobs(model: Any, work: Work, sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Summed log-probability of every response and its number of tokens, each [B]."""
    ids, mask, labels = padded(work, sequences)
    valid = labels[:, 1:] != -100
    tokens = F.cross_entropy(response_logits(model, ids, mask, valid).float(), labels[:, 1:][valid], reduction="none")
    sums = torch.zeros(len(ids), device=ids.device).index_add(0, valid.nonzero()[:, 0], -tokens)
    return sums, valid.sum(1)


def loop_loss(step: str, model: Any, work: Work, reference: Tensor | None) -> Tensor:
    """The loss of a batch, as one writes it by hand."""
    if step in {"dpo", "plad"}:
        sums, lengths = logprobs(model, work, [*work.sequences, *work.rejected])
        chosen, rejected = sums.chunk(2)
        if reference is not None:
            of_chosen, of_rejected = reference.chunk(2)
            return -F.logsigmoid(0.1 * ((chosen - of_chosen) - (rejected - of_rejected))).mean()
        anchor = -chosen / lengths.chunk(2)[0]
        return ((10.0 - (chosen - rejected)).clamp_min(0) + 30.0 * anchor).mean()
    sequences = work.sequences
    if step == "gkd":
        sequences = generated(model, work)
    ids, mask, labels = padded(work, sequences)
    valid = labels[:, 1:] != -100
    logits = response_logits(model, ids, mask, valid)
    if step == "sft":
        return F.cross_entropy(logits.float(), labels[:, 1:][valid])
    with torch.no_grad():
        theirs = response_logits(work.teacher, ids, mask, valid)
    return divergence(logits, theirs, 0.0 if step == "kd" else 0.5).mean()


@torch.no_grad()
def generated(model: Any, work: Work) -> list[tuple[list[int], list[int]]]:
    """Prompts with responses that the model samples, token by token: faster than its own generate."""
    from transformers import DynamicCache

    cache, tokens, made = DynamicCache(config=model.config), prompts_of(work), []
    model.eval()
    for _ in range(work.new_tokens):
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = torch.multinomial(output.logits[:, -1].float().softmax(-1), 1)
        made.append(tokens)
    model.train()
    ended = [row[: row.index(1) + 1] if 1 in row else row for row in torch.cat(made, 1).tolist()]
    return [(p, r) for (p, _), r in zip(work.sequences, ended, strict=True)]


def prompts_of(work: Work) -> Tensor:
    """Token ids of the prompts, [B, T]."""
    return torch.tensor([p for p, _ in work.sequences], device=work.device)


def loop(step: str, work: Work, count: int) -> Turn:
    """A turn of the plain loop."""
    model, losses = work.student().train(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    with torch.no_grad(), work.autocast():
        reference = logprobs(model, work, [*work.sequences, *work.rejected])[0] if step == "dpo" else None
    clock = Clock(work)
    for _ in range(count):
        with work.autocast():
            loss = loop_loss(step, model, work, reference)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        clock.tick()
    return Turn(losses[0], clock.seconds, 0)


# ------------------------------------------------------------------------------------------------------- plad-bench


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "kd": ("kd", {"ce_weight": 0.0}),
    "jsd": ("gkd", {"on_policy": 0.0}),
    "dpo": ("dpo", {"beta": 0.1}),
    "plad": ("plad", {}),
    "gkd": ("gkd", {"on_policy": 1.0, "sampling_temperature": 1.0}),
}


def ours(step: str, work: Work, count: int) -> Turn:
    """A turn of plad-bench's own training loop."""
    from plad_bench.contract.objectives import PairObjective
    from plad_bench.contract.registry import Registry
    from plad_bench.learn import training
    from plad_bench.learn.length import StepCount

    registry = Registry.load()
    name, given = METHODS[step]
    method = registry.get("method", name)
    params = registry.configure(method, given)
    paired = isinstance(method.objective, PairObjective)
    module, data = (pair_steps if paired else token_steps)(method, params, work, count)
    clock, losses = Clock(work), []

    def progress(done: int, steps: int, **values: float) -> None:
        losses.append(values["loss"])
        clock.tick()

    with tempfile.TemporaryDirectory() as directory:
        training.train(
            module, data, length=StepCount(count), lr=LR, seed=0, precision="bf16" if work.cuda else "float32",
            device="cuda:0" if work.cuda else "cpu", checkpoint=Path(directory) / "none", progress=progress,
        )  # fmt: skip
    return Turn(losses[0], clock.seconds, 0)


def token_steps(method: Any, params: Any, work: Work, count: int) -> tuple[Any, Any]:
    """The module and the steps of a token objective, as the train stage makes them."""
    from plad_bench.contract.enums import Text
    from plad_bench.learn.objectives import TokenLoss
    from plad_bench.learn.rollouts import Rollouts
    from plad_bench.learn.sequences import Tokens
    from plad_bench.learn.steps import TokenSteps

    student = work.student()
    teacher = work.teacher if method.objective.teacher_logits else None
    module = TokenLoss(student, teacher, params)
    rollouts = Rollouts(
        student, teacher, work.tokenizer(), max_new_tokens=work.new_tokens, seed=0,
        precision="bf16" if work.cuda else "float32",
    )  # fmt: skip
    texts = [[Tokens(prompt, response)] for prompt, response in work.sequences]
    every = list(range(len(texts)))
    steps = TokenSteps(
        method.objective, params, module, examples=[str(i) for i in every], prompts=[p for p, _ in work.sequences],
        fixed=dict.fromkeys((Text.REFERENCE, Text.TEACHER, Text.SAMPLE), texts), order=[every] * count,
        rollouts=rollouts, validation=(), cost={}, seed=0, pad=2, device="cuda:0" if work.cuda else "cpu",
    )  # fmt: skip
    return module, steps


def pair_steps(method: Any, params: Any, work: Work, count: int) -> tuple[Any, Any]:
    """The module and the steps of a pair objective, with what a reference model says of the pairs known."""
    from plad_bench.learn.objectives import PairLoss
    from plad_bench.learn.sequences import Tokens
    from plad_bench.learn.steps import PairSteps

    student = work.student()
    module = PairLoss(student, method.objective, params)
    rows = [{"chosen": Tokens(*a), "rejected": Tokens(*b)} for a, b in zip(work.sequences, work.rejected, strict=True)]
    if method.objective.reference:
        with torch.no_grad(), work.autocast():
            known = logprobs(student, work, [*work.sequences, *work.rejected])[0].chunk(2)
        for row, chosen, rejected in zip(rows, *(side.tolist() for side in known), strict=True):
            row |= {"reference_chosen": chosen, "reference_rejected": rejected}
    every = list(range(len(rows)))
    return module, PairSteps(
        {str(i): [row] for i, row in enumerate(rows)}, examples=[str(i) for i in every], order=[every] * count,
        seed=0, pad=2, device="cuda:0" if work.cuda else "cpu",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- TRL


def trl(step: str, work: Work, count: int) -> Turn | None:
    """A turn of TRL's trainer for the step; None where it has none."""
    make = {"sft": trl_sft, "kd": trl_gkd, "jsd": trl_gkd, "gkd": trl_gkd, "dpo": trl_dpo}.get(step)
    if make is None:
        return None
    from transformers import TrainerCallback

    clock = Clock(work)

    class Timer(TrainerCallback):
        losses: list[float] = []  # noqa: RUF012

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.last = clock.now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

        def on_log(self, *given: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as directory:
        usual = {
            "output_dir": directory, "max_steps": count, "per_device_train_batch_size": len(work.sequences),
            "learning_rate": LR, "max_grad_norm": CLIP, "logging_steps": 1, "report_to": "none",
            "save_strategy": "no", "gradient_checkpointing": False, "bf16": work.cuda, "use_cpu": not work.cuda,
            "disable_tqdm": True, "dataloader_num_workers": 0,
        }  # fmt: skip
        with (Path(directory) / "log").open("w") as said, redirect_stdout(said), redirect_stderr(said):
            make(step, work, usual, [Timer()]).train()
    return Turn(Timer.losses[0], clock.seconds, 0)


def text(ids: Sequence[int]) -> str:
    """Tokens as the words that the tokenizer has for them, without the end token."""
    return " ".join(f"w{i}" for i in ids if i > 2)


def trl_sft(_step: str, work: Work, usual: dict[str, Any], callbacks: list[Any]) -> Any:
    """SFTTrainer on prompts and completions."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in work.sequences]
    return SFTTrainer(
        work.student(), SFTConfig(**usual, max_length=None, completion_only_loss=True),
        train_dataset=Dataset.from_list(rows), processing_class=work.tokenizer(), callbacks=callbacks,
    )  # fmt: skip


def trl_gkd(step: str, work: Work, usual: dict[str, Any], callbacks: list[Any]) -> Any:
    """GKDTrainer on given text, or on-policy."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collator(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids, mask, labels = padded(work, [(row["prompt"], row["response"]) for row in rows])
        prompts = torch.tensor([row["prompt"] for row in rows])
        both = {"prompts": prompts, "prompt_attention_mask": torch.ones_like(prompts)}
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **both}

    config = GKDConfig(
        **usual, lmbda=float(step == "gkd"), beta=0.0 if step == "kd" else 0.5, temperature=1.0, max_length=None,
        max_new_tokens=work.new_tokens, dataloader_pin_memory=False,
    )  # fmt: skip
    return GKDTrainer(
        work.student(), work.teacher, config, data_collator=collator, processing_class=work.tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": p, "response": r} for p, r in work.sequences]),
        callbacks=callbacks,
    )  # fmt: skip


def trl_dpo(_step: str, work: Work, usual: dict[str, Any], callbacks: list[Any]) -> Any:
    """DPOTrainer with reference log-probabilities computed before."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": text(p), "chosen": " " + text(a) + " ", "rejected": " " + text(b) + " "}
        for (p, a), (_, b) in zip(work.sequences, work.rejected, strict=True)
    ]
    return DPOTrainer(
        work.student(), args=DPOConfig(**usual, beta=0.1, max_length=None, precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(rows), processing_class=work.tokenizer(), callbacks=callbacks,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ figures


def turns(step: str, side: str, work: Work, given: argparse.Namespace) -> Turn | None:
    """One turn of one side, with its peak memory where the device tells."""
    forget_peak(work)
    made = {"loop": loop, "ours": ours, "trl": trl}[side](step, work, given.count)
    if made is not None:
        made.bytes = peak(work)
    return made


def forget_peak(work: Work) -> None:
    """Give unused memory back, and begin to measure its peak."""
    gc.collect()
    if work.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak(work: Work) -> int:
    """The peak in bytes; 0 if it is unknown."""
    if work.cuda:
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def estimated(step: str, work: Work) -> float:
    """What plan/resources.py estimates for a step of ours, in bytes."""
    student, teacher = (
        resources.shape_of({**work.shape[role], "vocab_size": work.shape["vocabulary"], "tie_word_embeddings": True})
        for role in ("student", "teacher")
    )
    pairs = 2 if step in {"dpo", "plad"} else 1
    lengths = [len(r) for _, r in [*work.sequences, *(work.rejected if pairs == 2 else [])]]
    prompt, response = work.shape["prompt"], sum(lengths) / len(lengths)
    device = outlook.gpu(0) if work.cuda else outlook.cpu(torch.get_num_threads())
    return resources.training(
        resources.TrainingWork(
            student=student, steps=1, batch=pairs * len(work.sequences),
            lengths=resources.Lengths(prompt, response, prompt + max(lengths)), bf16=work.cuda,
            teacher=teacher, teacher_logits=step in {"kd", "jsd", "gkd"},
        ),
        device,
    ).memory  # fmt: skip


def figures(given: argparse.Namespace, work: Work) -> Iterator[dict[str, Any]]:
    """A row for each step, as soon as it is measured."""
    for step in given.steps:
        made: dict[str, list[Turn]] = {side: [] for side in given.sides}
        failed: dict[str, str] = {}
        for _ in range(given.turns):
            for side in given.sides:
                try:
                    turn = turns(step, side, work, given) if side not in failed else None
                except Exception as error:  # noqa: BLE001  a side that fails must not cost the others' figures
                    failed[side] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                    turn = None
                made[side] += [turn] if turn is not None else []
        row: dict[str, Any] = {"step": step, "failed": failed}
        for side, them in made.items():
            if them:
                seconds = [s for turn in them for s in turn.seconds[2:]]
                row[side] = {
                    "seconds": statistics.median(seconds),
                    "quartiles": statistics.quantiles(seconds, n=4)[::2] if len(seconds) > 1 else seconds * 2,
                    "loss": them[0].loss,
                    "bytes": max(turn.bytes for turn in them),
                }
        row["estimate"] = estimated(step, work)
        yield row


def line(row: dict[str, Any], sides: Sequence[str]) -> str:
    """A row of the table."""

    def of(side: str, show: Callable[[dict[str, Any]], str]) -> str:
        return show(row[side]) if side in row else row["failed"].get(side, "-")

    def ratio(side: str) -> str:
        return f"{row['ours']['seconds'] / row[side]['seconds']:.2f}" if {"ours", side} <= row.keys() else "-"

    cells = [of(s, lambda v: f"{v['seconds']:.3f} ({v['quartiles'][0]:.3f}-{v['quartiles'][1]:.3f})") for s in sides]
    ratios = [ratio(side) for side in sides if side != "ours"]
    losses = " / ".join(of(s, lambda v: f"{v['loss']:.4f}") for s in sides)
    memory = " / ".join(of(s, lambda v: f"{v['bytes'] / 1e9:.1f}") for s in sides)
    estimate = f"{row['estimate'] / 1e9:.1f}"
    return f"| {STEPS[row['step']]} | " + " | ".join([*cells, *ratios, losses, memory, estimate]) + " |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--steps", default=",".join(STEPS), help="which of them: " + ", ".join(STEPS))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--count", type=int, default=8, help="steps of a turn; the first two are not counted")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, help="tokens of an on-policy response; default: the response length")
    parser.add_argument("--vocabulary", type=int, help="number of words; default: the shape's")
    parser.add_argument("--tokens", type=int, help="of a sequence, a quarter of them its prompt; default: the shape's")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    given = parser.parse_args()
    given.steps = given.steps.split(",")
    given.sides = [side for side in given.sides.split(",") if side != "trl" or importlib.util.find_spec("trl")]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    shape = dict(SHAPES[given.shape])
    shape["vocabulary"] = given.vocabulary or shape["vocabulary"]
    if given.tokens:
        shape |= {"prompt": given.tokens // 4, "response": given.tokens - given.tokens // 4}
    work = Work(shape, given.device, given.new_tokens or shape["response"])
    device = torch.cuda.get_device_name(0) if work.cuda else f"CPU ({platform.machine()}, {given.threads} threads)"
    packages = ("torch", "transformers", *(["trl"] if "trl" in given.sides else []))
    versions = {name: importlib.metadata.version(name) for name in packages}
    sizes = f"batch {shape['batch']}, prompts of {shape['prompt']}, responses of at most {shape['response']} tokens"
    state = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores as it began"
    print(f"{device}; {', '.join(f'{name} {version}' for name, version in versions.items())}; {state}.")
    print(f"Shape {given.shape}: {sizes}, {shape['vocabulary']:,} words.\n")
    against = [f"ours / {side}" for side in given.sides if side != "ours"]
    head = ["step", *(f"{side} s" for side in given.sides), *against, "first loss", "peak memory GB", "estimate GB"]
    print(f"| {' | '.join(head)} |\n| :-- " + "| --: " * (len(head) - 1) + "|", flush=True)
    rows = []
    for row in figures(given, work):
        rows.append(row)
        print(line(row, given.sides), flush=True)
        if given.json:
            given.json.write_text(
                json.dumps({"device": device, "versions": versions, "state": state, "rows": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()

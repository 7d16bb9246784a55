"""Real records from end to end on a CPU: TL;DR and HH, models of three shapes, with LoRA and without, in one command.

    python benchmarks/shapes.py --data DIR > shapes.md

DIR holds `tldr` and `hh`, each a directory that the task of that name reads (docs/tasks.md). 500 records of each take
about 20 minutes of one core. Makes small Llama, GPT-NeoX and T5 models, a student and a teacher of each; trains them to
go on with the first halves of the prompts, so that there is something to adapt; then runs every shape, with LoRA and
without, on both tasks, where the teacher first learns from the references. All of it is `plad-bench run`, and the
tables that are printed are made of its records. With --work PLACE models, boards and the store stay there, and the same
command goes on where it stopped. Exit code 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASKS = ("tldr", "hh")
METHODS = ("sft", "seqkd", "kd", "plad", "gkd")
ROWS = ("student", "sft-init", *METHODS, "teacher")
METRICS = {
    "nll": "perplexity of the references",
    "fidelity-top1": "same likeliest token as the teacher (%)",
    "preference-accuracy": "teacher's text likelier than the own (%)",
    "rouge-l": "ROUGE-L",
}
SPECIAL = ("<s>", "</s>", "<pad>")
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
CONTEXT = 1024


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    width: int
    layers: int


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    student: Size = Size(64, 2)
    teacher: Size = Size(96, 3)
    vocabulary: int = 2048
    base_steps: int = 120
    teacher_steps: int = 80
    sft_steps: int = 40
    steps: int = 20
    batch: int = 8
    max_new_tokens: int = 32
    lora: int = 8


# --------------------------------------------------------------------------------------------------------- models


def shaped(shape: str, size: Size, vocabulary: int) -> Any:
    """A model with random weights, the same each time."""
    import torch
    import transformers as hf

    torch.manual_seed(size.width)
    heads, inner = size.width // 16, 4 * size.width
    if shape == "t5":
        body = {"d_model": size.width, "d_kv": 16, "d_ff": inner, "num_layers": size.layers, "num_heads": heads}
        return hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=vocabulary, **body, **ENDS, decoder_start_token_id=2, dropout_rate=0.0)
        )
    config, model = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM),
        "neox": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM),
    }[shape]
    body = {"hidden_size": size.width, "intermediate_size": inner, "num_hidden_layers": size.layers}
    return model(
        config(vocab_size=vocabulary, **body, **ENDS, num_attention_heads=heads, max_position_embeddings=CONTEXT)
    )


SHAPES = {"llama": "Llama", "neox": "GPT-NeoX", "t5": "T5"}


def tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[*SPECIAL], initial_alphabet=alphabet)
    made.train_from_iterator(texts, trainer)
    bos, eos, pad = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos, pad_token=pad)


def read(task: str, data: Path) -> list[Any]:
    """The examples of a task's files, as the task itself reads them."""
    from plad_bench import Example
    from plad_bench.contract.registry import Registry, resolve
    from plad_bench.plan.chosen import choose

    (chosen,) = choose(Registry.load(), "task", f"{task}[path='{data / task}']")
    chosen.component.require(chosen.params)
    return [e for e in resolve(chosen.component.load)(chosen.params) if isinstance(e, Example)]


def halves(text: str) -> tuple[str, str]:
    """A text in two, between words."""
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


# ----------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Work:
    """Where everything is kept, and how much of it there is to be."""

    directory: Path
    data: Path
    scale: Scale
    workers: int

    def run(self, board: str, **options: object) -> list[dict[str, Any]]:
        """`plad-bench run` onto a board, and the board's records."""
        options |= {"board": board, "precision": "float32", "gpus": "none", "workers": self.workers}
        named = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        print(f"{board} ...", file=sys.stderr, flush=True)
        code = self.call("run", *named).returncode
        if code not in {0, 1}:  # 1: some cells failed, which the table tells
            raise SystemExit(code)
        return [json.loads(f.read_text()) for f in (self.directory / "leaderboards" / board).rglob("seed-0.json")]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The program itself, in the working directory, which holds boards and store."""
        return subprocess.run(
            [sys.executable, "-m", "plad_bench", *arguments],
            cwd=self.directory,
            env={**os.environ, "PLAD_BENCH_STORE": str(self.directory / "store"), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            text=True,
            check=False,
        )

    def bases(self) -> None:
        """Write base/SHAPE-ROLE: models that have learned to go on with the first halves of the tasks' prompts."""
        wanted = [f"{shape}-{role}" for shape in SHAPES for role in ("student", "teacher")]
        if all((self.directory / "base" / name).is_dir() for name in wanted):
            return
        examples = [e for task in TASKS for e in read(task, self.data)]
        its = tokenizer((t for e in examples for t in (e.prompt, *e.references)), self.scale.vocabulary)
        for name in wanted:
            shape, role = name.split("-")
            place = self.directory / "random" / name
            shaped(shape, getattr(self.scale, role), len(its)).save_pretrained(place)
            its.save_pretrained(place)
        rows = (dict(zip(("prompt", "response"), halves(e.prompt), strict=True)) for e in examples)
        file = self.directory / "halves.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows if row["prompt"]))
        records = self.run(
            "base",
            task=f"jsonl[path={file.name}]",
            student=",".join(f"hf[path=random/{name}]" for name in wanted),
            teacher=f"hf[path=random/{wanted[0]}]",
            methods="none",
            metrics="nll",
            sft_steps=self.scale.base_steps,
            sft_lr=2e-3,
            batch=self.scale.batch,
            max_new_tokens=8,
        )
        for record in records:
            if record["method"]["name"] == "sft-init":
                name = next(n for n in wanted if f"path={n}-" in record["student"]["selector"])
                known = (self.directory / "base" / name).is_dir()
                if not known and (code := self.call("export", "checkpoint", record["cell"], f"base/{name}").returncode):
                    raise SystemExit(code)

    def matrix(self, shape: str, *, lora: bool) -> list[dict[str, Any]]:
        """Both tasks with the models of a shape."""
        scale = self.scale
        return self.run(
            f"{shape}-lora" if lora else shape,
            task=",".join(f"{task}[path='{self.data / task}']" for task in TASKS),
            student=f"hf[path=base/{shape}-student]",
            teacher=f"hf[path=base/{shape}-teacher,steps={scale.teacher_steps},lr=1e-3]",
            methods=",".join(METHODS),
            metrics=",".join(METRICS),
            sft_steps=scale.sft_steps,
            sft_lr=3e-3 if lora else 1e-3,
            steps=scale.steps,
            lr=1e-3 if lora else 3e-4,
            batch=scale.batch,
            max_new_tokens=scale.max_new_tokens,
            **({"lora": scale.lora} if lora else {}),
        )


# --------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Setting:
    """A shape, a task, with LoRA or without: its records by row."""

    name: str
    records: dict[str, dict[str, Any]]

    def value(self, row: str, metric: str) -> float | None:
        """A metric of a row as it is shown: % of shares, and a perplexity rather than its logarithm."""
        found = (self.records.get(row, {}).get("metrics") or {}).get(metric, {}).get("value")
        if found is None:
            return None
        return math.exp(found) if metric == "nll" else 100 * found

    @property
    def counts(self) -> Counter[str]:
        """How many records are how."""
        return Counter(r["status"] for r in self.records.values())

    def line(self) -> str:
        """What was done, and what that took."""
        costs = [r.get("cost") or {} for r in self.records.values()]
        tokens = sum(cost.get("tokens_trained", 0) for cost in costs)
        seconds = sum(cost.get("train_device_seconds", 0) for cost in costs)
        left = {r["reason"] or r["error"] for r in self.records.values() if r["status"] in {"skipped", "failed"}}
        counts = " | ".join(str(self.counts[status]) for status in ("done", "skipped", "failed"))
        return f"| {self.name} | {counts} | {tokens:,.0f} | {seconds:,.0f} | {'; '.join(sorted(left))} |"


def settings(shape: str, records: Sequence[dict[str, Any]], *, lora: bool) -> list[Setting]:
    """The records of a board, taken apart by task."""
    ending = ", LoRA" if lora else ""
    return [
        Setting(
            f"{SHAPES[shape]}, {task}{ending}",
            {r["method"]["name"]: r for r in records if r["task"]["name"] == task},
        )
        for task in TASKS
    ]


def table(found: Sequence[Setting], metric: str) -> list[str]:
    """A metric of every row of every setting."""
    lines = [f"**{METRICS[metric]}**", "", f"| | {' | '.join(ROWS)} |", "| :-- " + "| --: " * len(ROWS) + "|"]
    for setting in found:
        values = (setting.value(row, metric) for row in ROWS)
        lines.append(f"| {setting.name} | {' | '.join('-' if v is None else f'{v:.1f}' for v in values)} |")
    return [*lines, ""]


def compared(found: Sequence[Setting], better: str, worse: str, metric: str, sign: int) -> str:
    """In how many settings a row is ahead of another."""
    pairs = [(s.value(better, metric), s.value(worse, metric)) for s in found]
    ahead = sum(sign * (a - b) > 0 for a, b in pairs if a is not None and b is not None)
    return f"- {better} ahead of {worse} in {METRICS[metric]}: {ahead} of {len(pairs)}"


def page(found: Sequence[Setting]) -> str:
    """All of it in Markdown."""
    import torch
    import transformers

    lines = [
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}.",
        "",
        "| setting | done | skipped | failed | tokens trained | training s | why not |",
        "| :-- | --: | --: | --: | --: | --: | :-- |",
        *(setting.line() for setting in found),
        "",
        *(line for metric in METRICS for line in table(found, metric)),
        compared(found, "sft-init", "student", "nll", -1),
        compared(found, "kd", "sft-init", "fidelity-top1", 1),
        compared(found, "plad", "sft-init", "preference-accuracy", 1),
    ]
    return "\n".join(lines)


def main() -> int:
    """Run it all and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds tldr and hh")
    parser.add_argument("--work", type=Path, help="keep everything here; default: a temporary directory")
    parser.add_argument("--workers", type=int, default=1, help="cores")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (given.work or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        work = Work(place, given.data.resolve(), Scale(), given.workers)
        work.bases()
        found = [
            setting
            for lora in (False, True)
            for shape in SHAPES
            for setting in settings(shape, work.matrix(shape, lora=lora), lora=lora)
        ]
    print(page(found))
    return int(any(setting.counts["failed"] for setting in found))


if __name__ == "__main__":
    raise SystemExit(main())

"""Speed, memory and correctness on a GPU, by one command on a bare machine, into one Markdown page.

    python benchmarks/gpu.py --out gpu.md                       # an 80 GB GPU, at most nine minutes
    python benchmarks/gpu.py --out gpu.md --parts loss,mfu      # some of it
    python benchmarks/gpu.py --out gpu.md --smoke               # the same path on a CPU with tiny models, a minute

Needs this checkout and, importable: torch (for the GPU a CUDA build), transformers, and what plad-bench itself imports;
what is missing is named. Neither network nor installation: where plad-bench is not installed the checkout is used.

Every part is a process of its own with a time limit, and the page is written anew as each ends, so that a run that is
cut leaves what it has. All weights are random: the figures are of speed and memory, not of quality.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkout import ROOT, environment
from warned import warnings_after
from words import tokenizer

NEEDED = (
    *("click", "filelock", "jinja2", "numpy", "packaging", "platformdirs", "pluggy", "pyarrow"),
    *("pydantic", "rich", "rouge_score", "safetensors", "scipy", "tokenizers", "torch", "transformers"),
)
PARTS = {
    "tests": "Tests marked gpu",
    "loss": "JSD from hidden states, forward and backward",
    "steps": "A step beside a plain loop's and TRL's",
    "rollouts": "On-policy sampling",
    "mfu": "A KD step of a large teacher",
}
LIMIT = {"tests": 220, "loss": 60, "steps": 200, "rollouts": 90, "mfu": 100}
"""Seconds that a part may take; 57 for mfu and 165 for steps were measured on an H200."""
WHOLE = 540
"""Seconds that all of them may take."""
LLAMA = {"num_key_value_heads": 8, "rope_theta": 500000.0, "max_position_embeddings": 8192, "vocab_size": 128256}
SHAPES: dict[str, dict[str, Any]] = {  # of the published Llama 3 models
    "8b": LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": LLAMA | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
TINY = {"num_key_value_heads": 2, "num_attention_heads": 2, "max_position_embeddings": 256, "vocab_size": 2048}
SHAPES["tiny-8b"] = TINY | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SHAPES["tiny-1b"] = TINY | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
PEAKS = {  # dense bf16 FLOP/s as the vendor's data sheets have them; the first name found in the device's
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
}


def missing() -> list[str]:
    """The packages that are not there."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


# --------------------------------------------------------------------------------------------- within a part's process


class Bench:
    """A device, and sizes that suit it."""

    def __init__(self, *, smoke: bool) -> None:
        import torch

        self.smoke, self.device = smoke, "cpu" if smoke else "cuda"
        self.torch = torch

    def model(self, name: str, dtype: str = "float32") -> Any:
        """A Llama of a shape with random weights, on the device."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch, shape = self.torch, SHAPES[f"tiny-{name}" if self.smoke else name]
        config = LlamaConfig(**shape, bos_token_id=0, eos_token_id=1, pad_token_id=2, tie_word_embeddings=name == "1b")
        torch.manual_seed(0)
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            with torch.device(self.device):
                return LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)

    def method(self, name: str, **given: Any) -> tuple[Any, Any]:
        """A method's objective and parameters."""
        from plad_bench.contract.registry import Registry

        registry = Registry.load()
        method = registry.get("method", name)
        return method.objective, registry.configure(method, given)

    def autocast(self) -> Any:
        """bf16 arithmetic."""
        return self.torch.autocast(self.device, self.torch.bfloat16)

    def timed(self, step: Callable[[], object], repeats: int = 10) -> tuple[float, float]:
        """Median seconds of a step, after two that are not counted, and the most bytes that it held."""
        cuda = self.device == "cuda"
        seconds: list[float] = []
        if cuda:
            self.torch.cuda.reset_peak_memory_stats()
        for number in range(2 + (2 if self.smoke else repeats)):
            began = time.perf_counter()
            step()
            if cuda:
                self.torch.cuda.synchronize()
            seconds += [time.perf_counter() - began] if number > 1 else []
        return statistics.median(seconds), float(self.torch.cuda.max_memory_allocated()) if cuda else 0.0


def loss(bench: Bench) -> None:
    """The divergence alone: 8,192 tokens, states of 4,096, 128,256 words, in bf16."""
    from plad_bench.contract.memory_policy import COPIES, GPU_SHARE, chunk_of
    from plad_bench.learn.chunked_logits import Predictions, summed
    from plad_bench.learn.compiled import CompiledLoss
    from plad_bench.learn.objectives import token_losses
    from plad_bench.learn.teacher_cache import Whole

    torch = bench.torch
    tokens, width, words = (64, 32, 512) if bench.smoke else (8192, 4096, 128256)
    objective, params = bench.method("gkd", on_policy=0.0)
    term, dtype = objective.terms[0], torch.bfloat16
    heads = [torch.nn.Linear(width, words, bias=False, device=bench.device, dtype=dtype) for _ in range(2)]
    mine, theirs = (torch.randn(tokens, width, device=bench.device, dtype=dtype) for _ in range(2))
    mine.requires_grad_()
    heads[1].requires_grad_(False)  # noqa: FBT003
    labels = torch.randint(words, (tokens,), device=bench.device)
    memory = 2**30 if bench.smoke else torch.cuda.get_device_properties(0).total_memory
    room = memory // GPU_SHARE // (COPIES * 4 * words)
    usual = chunk_of(tokens, room, width)

    usual_loss = functools.partial(token_losses, term, params)

    def step(chunk: int, losses: Callable[..., Any]) -> None:
        student = Predictions(mine, heads[0], chunk, (heads[0].weight,))
        target = Whole(Predictions(theirs, heads[1], chunk))

        def of(part: slice, states: Any) -> Any:
            return losses(*target.meet(part, student.head(states), labels[part])).sum()

        (summed(of, student, chunk) / tokens).backward()
        mine.grad = heads[0].weight.grad = None

    print(f"{tokens:,} tokens, hidden size {width:,}, {words:,} words, bf16, gradients of states and student head.\n")
    print("| tokens of a chunk | loss | ms | peak memory GB |\n| --: | :-- | --: | --: |")
    forms = {"compiled": usual_loss if bench.smoke else CompiledLoss(usual_loss), "not compiled": usual_loss}
    chunks = (16,) if bench.smoke else (1024, 4096)
    for chunk, form in ((usual, "compiled"), (usual, "not compiled"), *((chunk, "compiled") for chunk in chunks)):
        seconds, held = bench.timed(lambda chunk=chunk, form=form: step(chunk, forms[form]))
        label = f"{chunk:,} (as a run chooses)" if chunk == usual else f"{chunk:,}"
        print(f"| {label} | {form} | {1000 * seconds:.1f} | {held / 1e9:.1f} |", flush=True)
    products, _ = bench.timed(
        lambda: [_products(mine[a : a + usual], theirs[a : a + usual], *heads) for a in range(0, tokens, usual)]
    )
    print(f"\nThe products of states and heads alone, forward and backward: {1000 * products:.1f} ms.")


def _products(mine: Any, theirs: Any, own: Any, other: Any) -> None:
    """What no loss from hidden states can do without: both logits, and the gradients of states and student's head."""
    states, logits = mine.detach(), mine.detach() @ own.weight.detach().T
    theirs @ other.weight.T, logits @ own.weight.detach(), logits.T @ states


def rollouts(bench: Bench) -> None:
    """Tokens per second that the 1B student samples, beside transformers' own generate."""
    from plad_bench.contract.objectives import Sampling
    from plad_bench.learn.rollouts import Rollouts

    torch = bench.torch
    batch, prompt, new = (2, 4, 4) if bench.smoke else (64, 128, 128)
    student = bench.model("1b")
    words = SHAPES["tiny-1b" if bench.smoke else "1b"]["vocab_size"]
    ids = torch.randint(3, words, (batch, prompt), device=bench.device)
    prompts = ids.tolist()
    sampler = Rollouts(student, None, tokenizer(words), max_new_tokens=new, seed=0, precision="bf16")

    def ours() -> None:
        sampler.sample(prompts, [str(i) for i in range(batch)], 0, Sampling())

    def theirs(model: Any) -> None:
        with torch.no_grad(), bench.autocast():
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                max_new_tokens=new, pad_token_id=2,
            )  # fmt: skip

    print(f"{batch} prompts of {prompt} tokens, {new} new ones each, 1B.\n")
    print("| sampler | s | tokens/s | peak memory GB |\n| :-- | --: | --: | --: |")
    for name, step in (
        ("plad-bench (float32 weights, bf16 autocast)", ours),
        ("generate (float32 weights, bf16 autocast)", lambda: theirs(student)),
        ("generate (bf16 weights)", lambda: theirs(student.to(torch.bfloat16))),
    ):
        seconds, held = bench.timed(step, 3)
        print(f"| {name} | {seconds:.2f} | {batch * new / seconds:,.0f} | {held / 1e9:.1f} |", flush=True)


def mfu(bench: Bench) -> None:
    """A whole kd update, 8B -> 1B, at 1,024 tokens: the model FLOPs it needs by the device's peak."""
    from plad_bench.execute import outlook
    from plad_bench.execute.stages.memory_estimate import shape_of
    from plad_bench.learn.objectives import TokenLoss
    from plad_bench.learn.sequences import Tokens, collate
    from plad_bench.plan import resources
    from plad_bench.plan.resources import Lengths, TrainingWork

    torch = bench.torch
    prompt, response = (4, 4) if bench.smoke else (512, 512)
    objective, params = bench.method("kd", ce_weight=0.0)
    student, teacher = bench.model("1b").train(), bench.model("8b", "bfloat16").eval().requires_grad_(False)  # noqa: FBT003
    module = TokenLoss(student, teacher, params)
    if not bench.smoke:
        module.compile_parts()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=not bench.smoke)
    device = "CPU" if bench.smoke else torch.cuda.get_device_name(0)
    peak = next((value for name, value in PEAKS.items() if name in device), None)
    print(
        "| sequences of a step | s | tokens/s | model TFLOP/s | MFU % | peak memory GB | estimated s | estimated GB |\n"
        "| --: | --: | --: | --: | --: | --: | --: | --: |",
        flush=True,
    )
    for batch in (2,) if bench.smoke else (8, 16):
        words = student.config.vocab_size
        ids = torch.randint(3, words, (batch, prompt + response)).tolist()
        data = collate([Tokens(row[:prompt], row[prompt:]) for row in ids], 2, bench.device)
        total = batch * response

        def step(data: Any = data, total: int = total) -> None:
            with bench.autocast():
                value, _ = module(objective.terms[0], data, total)
            value.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        seconds, held = bench.timed(step, 5)
        read = batch * (prompt + response)
        flops = sum(per * forward(model, read, total) for per, model in ((3, student), (1, teacher)))
        rate = flops / seconds
        share = f"{100 * rate / peak:.1f}" if peak else "-"
        work = TrainingWork(
            student=shape_of(student), teacher=shape_of(teacher), teacher_logits=True, steps=1, batch=batch, bf16=True,
            lengths=Lengths(prompt, response, prompt + response),
        )  # fmt: skip
        planned = resources.training(work, outlook.cpu(1) if bench.smoke else outlook.gpu(0))
        cells = [f"{read / seconds:,.0f}", f"{rate / 1e12:.1f}", share, f"{held / 1e9:.1f}"]
        cells += [f"{planned.seconds:.3f}", f"{planned.memory / 1e9:.1f}"]
        print(f"| {batch} | {seconds:.3f} | {' | '.join(cells)} |", flush=True)
    print(
        "\nModel FLOPs: 2 for each parameter of the body and token read and each of the head and response token; the "
        "student three times (gradient), the teacher once. Attention's own products and the update are not counted. "
        + (f"Peak: {peak / 1e12:,.0f} TFLOP/s." if peak else "")
    )


def forward(model: Any, read: int, predicted: int) -> float:
    """FLOPs of a forward pass over `read` tokens, `predicted` of which have logits."""
    table = model.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters()) - table * (1 if model.config.tie_word_embeddings else 2)
    return 2.0 * (body * read + table * predicted)


class PrintsOutcomes:
    """Prints each test's outcome as it ends, with what failed, so that a run that times out still shows them."""

    @staticmethod
    def pytest_runtest_logreport(report: Any) -> None:
        """Print a test's outcome, or a failure of what prepares or cleans up for it."""
        if report.when == "call" or not report.passed:
            print(f"{report.outcome} in {report.duration:.0f} s: {report.nodeid.split('::')[-1]}", flush=True)
        if report.failed:
            print(report.longreprtext, flush=True)


def tests(bench: Bench) -> int:
    """The tests marked gpu; pytest's exit status, but 0 where there is no GPU to test."""
    import pytest

    quiet = ["-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider", "-Wdefault"]
    which = ["-m", "gpu and not slow" if bench.smoke else "gpu", "tests/learn/test_gpu.py"]
    status = pytest.main([*quiet, *which], plugins=[PrintsOutcomes()])
    return 0 if bench.smoke and status == pytest.ExitCode.NO_TESTS_COLLECTED else status


OWN: dict[str, Callable[[Bench], int | None]] = {"tests": tests, "loss": loss, "rollouts": rollouts, "mfu": mfu}
"""Parts that this file runs; benchmarks/peers.py has the steps."""


# ---------------------------------------------------------------------------------------------------- around the parts


def command(part: str, given: argparse.Namespace) -> list[str]:
    """What runs a part."""
    if part == "steps":
        sizes = ["--count=3", "--turns=1", "--sides=loop,ours", "--steps=sft"]
        real = [
            "--device=cuda",
            "--shape=1b",
            "--turns=1",
            "--count=8",
            "--new-tokens=128",
            "--steps=gkd,jsd,kd,sft,plad,dpo",
        ]  # the most telling first
        beside = ["--json", str(given.out.with_suffix(".steps.json").resolve())]
        return [sys.executable, "benchmarks/peers.py", *(sizes if given.smoke else real), *beside]
    return [sys.executable, __file__, "--part", part, *(["--smoke"] if given.smoke else [])]


def run(part: str, given: argparse.Namespace, work: Path, left: float) -> tuple[bool, str]:
    """Run a part for at most the seconds that are left; whether it succeeded, and what it printed."""
    limit = max(0.0, min(LIMIT[part] * given.patience, left))
    try:
        made = subprocess.run(
            command(part, given), env=environment(work), cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        said = said.decode() if isinstance(said, bytes) else said
        return False, said + f"\n(stopped after {limit:.0f} s)"
    good = made.returncode == 0
    return good, made.stdout.strip() if good else (made.stdout + "\n" + made.stderr[-4000:]).strip()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the Markdown page")
    parser.add_argument("--smoke", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them: " + ", ".join(PARTS))
    parser.add_argument("--patience", type=float, default=1, help="multiplies all time limits")
    parser.add_argument("--part", choices=OWN, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if absent := missing():
        parser.exit(3, f"missing packages: {', '.join(absent)}. Put them on the Python path.\n")
    import torch

    if not given.smoke and not torch.cuda.is_available():
        parser.exit(3, "torch sees no GPU. --smoke tries the path on a CPU.\n")
    if given.part:
        with warnings_after():
            return OWN[given.part](Bench(smoke=given.smoke)) or 0
    if given.out is None:
        parser.error("--out says where the page goes")
    import transformers

    device = f"CPU ({platform.machine()})" if given.smoke else torch.cuda.get_device_name(0)
    head = f"Device: {device}. Python {platform.python_version()}, torch {torch.__version__}, "
    lines = [head + f"transformers {transformers.__version__}. Random weights.", ""]
    good, began = True, time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        for part in given.parts.split(","):
            print(f"{PARTS[part]} ...", file=sys.stderr, flush=True)
            start = time.monotonic()
            passed, output = run(part, given, Path(work), WHOLE * given.patience - (start - began))
            good &= passed
            fenced = output if passed and part != "tests" else f"```\n{output}\n```"
            took = f"({time.monotonic() - start:.0f} s)"
            lines += [f"## {PARTS[part]}" + ("" if passed else ": FAILED"), "", fenced, "", took, ""]
            given.out.write_text("\n".join([*lines, f"All of it took {time.monotonic() - began:.0f} s."]) + "\n")
            print("\n".join(lines[-6:]), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

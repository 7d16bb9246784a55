"""Speed, memory and correctness on a GPU, by one command on a bare machine, into one Markdown page.

    python benchmarks/gpu.py --out gpu.md            # a GPU of 40 GB or more, ten minutes
    python benchmarks/gpu.py --out gpu.md --smoke    # the same path on a CPU with tiny models, a minute

Needs this checkout and, importable: torch (for the GPU a CUDA build), transformers, and what plad-bench itself imports;
what is missing is named. Neither network nor installation: where plad-bench is not installed the checkout is used. Disk
for the models: 45 GB with the 8B teacher, 30 GB with the 3B one (--work).

Makes a teacher and a student of real shape with random weights, and runs `plad-bench run --methods plad,kd,seqkd` on
the demo task; then the tests marked gpu; then benchmarks/objectives.py. The quality of such models says nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS = "plad,kd,seqkd"
NEEDED = (
    *("accelerate", "click", "filelock", "jinja2", "numpy", "packaging", "platformdirs", "pluggy", "pyarrow"),
    *("pydantic", "rich", "rouge_score", "safetensors", "scipy", "tokenizers", "torch", "transformers"),
)
LLAMA = {"num_key_value_heads": 8, "rope_theta": 500000.0, "max_position_embeddings": 8192, "vocab_size": 128256}
SHAPES: dict[str, dict[str, Any]] = {  # of the published Llama 3 models
    "8b": LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "3b": LLAMA | {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24},
    "1b": LLAMA | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
TINY = {"num_key_value_heads": 2, "num_attention_heads": 2, "max_position_embeddings": 256, "vocab_size": 2048}
SHAPES["tiny-teacher"] = TINY | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SHAPES["tiny-student"] = TINY | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
TIED = {"3b", "1b", "tiny-student"}
PEAKS = {  # bf16 FLOP/s without sparsity, as remembered: check the data sheet; the first name found in the device's
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L4": 1.21e14,
    "A10": 1.25e14,
    "RTX 4090": 1.65e14,
}


@dataclass(frozen=True)
class Shape:
    """What a model's multiplications follow from."""

    body: int
    """Parameters but those of embeddings and head."""
    head: int
    """Parameters of the output head."""

    def flops(self, per_parameter: int, read: float, predicted: float) -> float:
        """Of a pass over `read` tokens, `predicted` of which have logits. Attention's own products are left out."""
        return per_parameter * (self.body * read + self.head * predicted)


def missing() -> list[str]:
    """The packages that are not there."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def environment(work: Path) -> dict[str, str]:
    """What the project's own processes are started with, so that they are this checkout's."""
    paths = [str(ROOT), str(ROOT / "plugins")]
    try:
        importlib.metadata.distribution("plad-bench")
    except importlib.metadata.PackageNotFoundError:
        about = work / "installed" / "plad_bench-0.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plad-bench\nVersion: 0\n")
        (about / "entry_points.txt").write_text("[plad_bench]\nbuiltin = plad_bench_plugins\n")
        paths.append(str(about.parent))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths)}


def tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE of the demo's text, filled up with words that no text has, so that any token decodes."""
    sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from plad_bench_plugins.tasks.demo import load

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator((text for e in load(None) for text in (e.prompt, *e.references)), trainer)
    content = json.loads(made.to_str())
    words = content["model"]["vocab"]
    words |= {f"\u0120w{i}": i for i in range(len(words), vocabulary)}
    filled = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=filled, bos_token="<s>", eos_token="</s>", pad_token="<pad>")  # noqa: S106


def make(name: str, directory: Path, device: str) -> Shape:
    """Write a model of a shape with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[name]
    its = tokenizer(shape["vocab_size"])
    ends = {"bos_token_id": its.bos_token_id, "eos_token_id": its.eos_token_id, "pad_token_id": its.pad_token_id}
    config = LlamaConfig(**shape, **ends, tie_word_embeddings=name in TIED)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)
    its.save_pretrained(directory)
    total = sum(p.numel() for p in model.parameters())
    table = shape["vocab_size"] * shape["hidden_size"]
    return Shape(total - table * (1 if name in TIED else 2), table)


def run(given: argparse.Namespace, work: Path, student: Path, teacher: Path) -> dict[str, dict[str, Any]]:
    """Run the methods and return their records."""
    options = {
        "--methods": METHODS,
        "--student": f"hf[path={student}]",
        "--teacher": f"hf[path={teacher}]",
        "--metrics": "length",
        "--limit": given.limit,
        "--steps": given.steps,
        "--warmup-steps": given.steps,
        "--lr": 1e-5,
        "--warmup-lr": 1e-5,
        "--batch": given.batch,
        "--max-new-tokens": given.max_new_tokens,
        "--precision": "bf16",
        "--backend": "transformers",
        "--board": "gpu",
        "--boards-dir": work / "boards",
        "--store": work / "store",
        "--gpus": "0" if given.device == "cuda" else "none",
    }
    command = [sys.executable, "-m", "plad_bench", "run", *(str(part) for pair in options.items() for part in pair)]
    subprocess.run(command, check=True, env=environment(work), cwd=work, stdout=sys.stderr)
    records = [json.loads(file.read_text()) for file in (work / "boards").rglob("seed-0.json")]
    return {r["method"]["name"]: r for r in records if r["method"]["name"] in METHODS.split(",")}


def table(
    records: dict[str, dict[str, Any]], student: Shape, teacher: Shape, steps: int, peak: float | None
) -> list[str]:
    """A line for each method."""
    lines = [
        "| method | step s | response tokens/s | all tokens/s | peak memory GB | model TFLOP/s | MFU % | micro-batch "
        "| student text tokens/s | teacher text tokens/s |",
        "| :-- " + "| --: " * 9 + "|",
    ]
    for name in METHODS.split(","):
        record = records[name]
        cost = record["cost"]
        seconds = cost["step_milliseconds"] / 1000
        read, trained = cost["tokens_read"] / steps, cost["tokens_trained"] / steps
        scored = cost.get("teacher_tokens_scored", 0) / steps
        flops = student.flops(6, read, trained) + (teacher.flops(2, read, scored) if scored else 0)
        rate = flops / seconds
        cells = [
            f"{seconds:.3f}",
            f"{trained / seconds:,.0f}",
            f"{read / seconds:,.0f}",
            f"{cost['peak_memory_bytes'] / 1e9:.1f}",
            f"{rate / 1e12:.3g}",
            f"{100 * rate / peak:.1f}" if peak else "-",
            str(record["provenance"]["micro_batch"] or "whole"),
            _rate(cost, "tokens_generated", "sample_device_seconds"),
            _rate(cost, "teacher_tokens", "teacher_device_seconds"),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _rate(cost: dict[str, float], tokens: str, seconds: str) -> str:
    return f"{cost[tokens] / cost[seconds]:,.0f}" if cost.get(seconds) and tokens in cost else "-"


def captured(command: list[str], work: Path) -> tuple[bool, str]:
    """Whether a command of the project succeeded, and what it printed."""
    made = subprocess.run(command, env=environment(work), cwd=ROOT, capture_output=True, text=True, check=False)
    return made.returncode == 0, (made.stdout if made.returncode == 0 else made.stdout + made.stderr).strip()


def page(given: argparse.Namespace, work: Path) -> tuple[bool, str]:
    """Do everything; whether all went well, and the page."""
    import torch
    import transformers

    cuda = given.device == "cuda"
    device = torch.cuda.get_device_name(0) if cuda else f"CPU ({platform.machine()})"
    peak = given.peak_tflops * 1e12 if given.peak_tflops else next((v for k, v in PEAKS.items() if k in device), None)
    began = time.monotonic()
    made = {role: make(name, work / name, given.device) for role, name in vars(given.shapes).items()}
    if cuda:
        torch.cuda.empty_cache()
    records = run(given, work, work / given.shapes.student, work / given.shapes.teacher)
    lines = [
        f"Device: {device}. Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}.",
        "",
        f"`plad-bench run --methods {METHODS} --precision bf16 --batch {given.batch} --steps {given.steps} "
        f"--limit {given.limit} --max-new-tokens {given.max_new_tokens}`: student {given.shapes.student} "
        f"({sum(vars(made['student']).values()):,} parameters), teacher {given.shapes.teacher} "
        f"({sum(vars(made['teacher']).values()):,}), random weights, the demo task's text.",
        "",
        *table(records, made["student"], made["teacher"], given.steps, peak),
        "",
        "A step's time is its median's by the clock, everything in it included. Model FLOP: 6 for each parameter and "
        "token of the student, 2 of a teacher that is read in the step; the head's for response tokens only, none for "
        "attention. MFU: " + (f"of {peak / 1e12:,.0f} TFLOP/s." if peak else "the device's peak is not known."),
        "Rates of text include loading the model.",
        "",
    ]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    sizes = ["--width=64", "--batch=4", "--length=16", "--prompt=8", "--vocabularies=512", "--methods=plad"]
    real = ["--width=2048", "--layers=16", "--length=512", "--batch=8", "--vocabularies", "32768", "128256"]
    objectives = [sys.executable, "benchmarks/objectives.py", f"--device={given.device}", "--turns=1"]
    good = True
    for title, command in (
        ("Tests marked gpu", tests),
        ("Losses from hidden states", [*objectives, *(sizes if given.smoke else real)]),
    ):
        print(f"{title} ...", file=sys.stderr)
        passed, output = captured(command, work)
        good &= passed
        fenced = output if output.startswith("|") else f"```\n{output}\n```"
        lines += [f"## {title}" + ("" if passed else ": FAILED"), "", fenced, ""]
    lines.append(f"All of it took {time.monotonic() - began:.0f} s.")
    return good, "\n".join(lines) + "\n"


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the Markdown page")
    parser.add_argument("--smoke", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--teacher", choices=["8b", "3b", "1b"], help="default: 8b if the GPU has 60 GB, else 3b")
    parser.add_argument("--limit", type=int, default=128, help="prompts of a split")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16; default: as remembered here")
    parser.add_argument("--work", type=Path, help="where models and store go; default: a temporary directory")
    given = parser.parse_args()
    if absent := missing():
        parser.exit(3, f"missing packages: {', '.join(absent)}. Put them on the Python path.\n")
    import torch

    given.device = "cpu" if given.smoke else "cuda"
    if given.smoke:
        given.limit, given.steps, given.batch, given.max_new_tokens = 8, 2, 4, 8
        given.shapes = argparse.Namespace(student="tiny-student", teacher="tiny-teacher")
    elif not torch.cuda.is_available():
        parser.exit(3, "torch sees no GPU. --smoke tries the path on a CPU.\n")
    else:
        big = torch.cuda.get_device_properties(0).total_memory >= 60e9
        given.shapes = argparse.Namespace(student="1b", teacher=given.teacher or ("8b" if big else "3b"))
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        good, text = page(given, work)
    given.out.write_text(text)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""A board of real pretrained weights: a model fine-tuned on a task teaches depth-pruned copies of itself or of another.

    python benchmarks/real_models.py --teacher DIR --data DIR                        # hours on two CPU cores
    python benchmarks/real_models.py --teacher DIR --data DIR --budget gpu --gpus 0,0,0,0,0,0   # minutes on one GPU
    python benchmarks/real_models.py --teacher DIR --data DIR --show                 # prints the command and stops
    python benchmarks/real_models.py --teacher FILE.gguf --student DIR --data DIR --methods sft,seqkd,uld,plad

--teacher and --student are models in Hugging Face format or GGUF files (on the committed board SmolLM2-135M-Instruct
teaches copies of itself); DIR of --data holds a folder for each task, such as e2e-clean. Nothing is downloaded. It is
one `plad-bench run` and nothing else: every cell is recorded as it ends, and a run that was killed goes on by the same
command. GPU 0 given six times makes six workers share it, which pays for models this small.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from checkout import environment

METHODS = "sft,seqkd,kd,kd[data=teacher],plad,plad[logprob=mean,beta=1,sft_weight=3],gkd,distillm2"
TASKS = {
    "e2e": ("e2e[path={data}/e2e-clean]", 64, "missing-slots,slot-errors,rouge-l,rouge-1,length"),
    "tldr": ("tldr[path={data}/tldr/tldr_sample.json]", 64, "rouge-l,rouge-1,length"),
    "scitldr": ("jsonl[path={data}/scitldr,prompt=source,response=target]", 48, "rouge-l,rouge-1,length"),
    "hh": ("hh[path={data}/hh/helpful_sample.jsonl]", 96, "rouge-l,rouge-1,length"),
    "gsm8k": ("gsm8k[path={data}/gsm8k]", 160, "final-answer,length"),
}
"""Task -> its selector, most new tokens, metrics; the first ranks."""
BUDGETS = {  # batch, steps of the teacher, of the common initialisation, of every method
    "smoke": (2, 2, 2, 2),
    "trial": (4, 8, 30, 30),
    "cpu": (8, 40, 40, 40),
    "gpu": (32, 300, 60, 200),
}
LIMITS = {"smoke": {"--limit": 8, "--max-new-tokens": 8}, "trial": {"--limit": 48, "--max-new-tokens": 40}}
"""Budget -> options for fewer prompts and shorter responses than the task's."""
RATES = {"teacher": 2e-4, "initialisation": 1e-3, "method": 5e-4}
"""Peak learning rates: a model with holes where layers were needs higher ones than a whole model does."""


def command(given: argparse.Namespace) -> list[str]:
    """The run."""
    selector, tokens, metrics = TASKS[given.task]
    batch, teacher, initialisation, steps = BUDGETS[given.budget]
    pruned = (given.student or given.teacher).resolve()
    options = {
        "--task": selector.format(data=given.data.resolve()),
        "--teacher": f"hf[path={given.teacher.resolve()},steps={teacher},lr={RATES['teacher']:g}]",
        "--student": ",".join(f"pruned[path={pruned},layers={n}]" for n in given.layers.split(",")),
        "--methods": given.methods,
        "--metrics": metrics,
        "--seeds": given.seeds,
        "--steps": steps,
        "--lr": RATES["method"],
        "--sft-steps": initialisation,
        "--sft-lr": RATES["initialisation"],
        "--batch": batch,
        "--max-new-tokens": tokens,
        "--board": given.board or f"smollm2-{given.task}",
        "--gpus": given.gpus,
    }
    options |= LIMITS.get(given.budget, {})
    return [sys.executable, "-m", "plad_bench", "run", *(str(part) for pair in options.items() for part in pair)]


def main() -> int:
    """Read the command line; what follows -- is handed to `plad-bench run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="a model in Hugging Face format, or a GGUF file")
    parser.add_argument("--student", type=Path, help="the model whose layers students keep; default: the teacher's")
    parser.add_argument("--data", type=Path, required=True, help="a folder for each task")
    parser.add_argument("--task", choices=TASKS, default="e2e")
    parser.add_argument("--layers", default="12", help="layers that students keep, such as 6,12")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--gpus", default="none")
    parser.add_argument("--board", help="default: smollm2-TASK")
    parser.add_argument("--show", action="store_true", help="print the command and stop")
    given, more = parser.parse_known_args()
    made = [*command(given), *(more[1:] if more[:1] == ["--"] else more)]
    print(shlex.join(made), file=sys.stderr)
    if given.show:
        return 0
    with tempfile.TemporaryDirectory() as work:
        return subprocess.run(made, env=environment(Path(work)), check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())

"""Sampling from a student while it trains: where a token's time goes, and how an earlier state of the project compares.

    python benchmarks/sampling.py                                        # this machine's CPU, some minutes
    git worktree add ../before 2e48604 && python benchmarks/sampling.py --before ../before
    python benchmarks/sampling.py --device cuda --dtype bf16 --width 2048 --layers 16 --vocabulary 128256 --batch 64

Random Llamas: a student, and a teacher of 2.5 times its width where the method has it mix or verify. `now` is
learn/rollouts.py, `before` that file of another checkout, `model` the models' own passes over as many tokens, with the
same cache but without draws (a floor, where no text ends early), `generate` transformers' own loop with do_sample. All
take turns in one process. A time is processor time on a CPU (one thread) and the clock's on a GPU, the least of all
turns; `same` says how many texts are those of `before`. The second table has the parts of `now`. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from plad_bench import Sampling
from plad_bench.learn import incremental, rollouts

WAYS = {
    "plain": Sampling(),
    "teacher mixed in": Sampling(teacher_mix=0.2),
    "verified drafts of 5": Sampling(verify_top_k=25, draft=5),
}


def words(count: int) -> Any:
    """A tokenizer that knows the words w2, w3, ..."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    known = {name: i for i, name in enumerate(["<pad>", "<end>", *(f"w{i}" for i in range(2, count))])}
    made = Tokenizer(models.WordLevel(known, unk_token="<pad>"))  # noqa: S106
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")  # noqa: S106


def model(given: argparse.Namespace, width: int, seed: int) -> Any:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=max(1, width // 32),
        num_key_value_heads=max(1, width // 32),
        max_position_embeddings=given.prompt + given.new,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    made: Any = LlamaForCausalLM(config).to(given.device)  # type: ignore[arg-type]
    made.generation_config.eos_token_id = list(range(1, given.vocabulary, given.ends)) if given.ends else [1]
    made.generation_config.pad_token_id = 0
    return made.eval()


def clock(device: str) -> float:
    """Now, once the device is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Race:
    """The sides of one way to sample."""

    def __init__(self, given: argparse.Namespace, way: Sampling) -> None:
        self.given, self.way = given, way
        self.student, self.teacher = model(given, given.width, 0), model(given, given.width * 5 // 2, 1)
        draws = random.Random(0)
        lengths = [draws.randrange(given.prompt // 2, given.prompt) for _ in range(given.batch)]
        self.prompts = [[2, *(draws.randrange(3, given.vocabulary) for _ in range(n))] for n in lengths]
        self.names = [str(i) for i in range(given.batch)]
        self.samplers = {"now": self._sampler(rollouts)}
        if given.before:
            self.samplers = {"before": self._sampler(earlier(given.before)), **self.samplers}

    def _sampler(self, module: Any) -> Any:
        known, given = words(self.given.vocabulary), self.given
        return module.Rollouts(self.student, self.teacher, known, given.new, seed=0, precision=given.dtype)

    def sides(self) -> dict[str, Callable[[int], Any]]:
        """Each side, given the number of a turn."""
        sides: dict[str, Callable[[int], Any]] = {
            name: lambda turn, one=one: one.sample(self.prompts, self.names, turn, self.way)
            for name, one in self.samplers.items()
        }
        if not self.given.ends and not self.way.verify_top_k:
            sides["model"] = self.alone
        if self.way == Sampling():
            sides["generate"] = self.generated
        return sides

    @torch.no_grad()
    def alone(self, _turn: int) -> None:
        """Read as many tokens as are sampled, with whoever reads them."""
        given = self.given
        models = [self.student, self.teacher] if self.way.teacher_mix else [self.student]
        with torch.autocast(given.device, torch.bfloat16, enabled=given.dtype == "bf16"):
            readers = [incremental.reader(m, 1.0, given.vocabulary) for m in models]
            for one in readers:
                one.begin(self.prompts, 0, given.new)
            for _ in range(given.new):
                for one in readers:
                    one.logits(one.last)

    @torch.no_grad()
    def generated(self, turn: int) -> None:
        """Sample by the loop of transformers."""
        from plad_bench.learn.generation import padded

        ids, mask = padded(self.prompts, 0, self.student.device)
        torch.manual_seed(turn)
        with torch.autocast(self.given.device, torch.bfloat16, enabled=self.given.dtype == "bf16"):
            self.student.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.given.new, do_sample=True, top_k=0
            )

    def parts(self) -> dict[str, float]:
        """Seconds of `now` in its parts, inclusive of what measuring takes."""
        spent: dict[str, float] = defaultdict(float)
        watched = [
            (incremental.Attention, "begin", "prompts"), (incremental.Attention, "logits", "model"),
            (incremental.Reader, "read", "softmax"), (rollouts, "draw", "draw"),
            (incremental.Attention, "keep", "taking back"), (incremental.Reader, "drop", "leaving"),
            (rollouts._Texts, "add", "bookkeeping"), (rollouts._Texts, "leave", "bookkeeping"),
            (rollouts._Texts, "numbers", "bookkeeping"),
        ]  # fmt: skip
        with watching(watched, spent, self.given.device):
            began = clock(self.given.device)
            self.samplers["now"].sample(self.prompts, self.names, 1, self.way)
            whole = clock(self.given.device) - began
        spent["softmax"] -= spent["model"]  # which it asks
        return {**spent, "rest": whole - sum(spent.values())}


@contextmanager
def watching(functions: list[tuple[Any, str, str]], spent: dict[str, float], device: str) -> Iterator[None]:
    """Add up the time that functions take."""
    real = [getattr(place, name) for place, name, _ in functions]

    def watched(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = clock(device)
            try:
                return function(*arguments, **named)
            finally:
                spent[part] += clock(device) - began

        return call

    for (place, name, part), function in zip(functions, real, strict=True):
        setattr(place, name, watched(function, part))
    try:
        yield
    finally:
        for (place, name, _), function in zip(functions, real, strict=True):
            setattr(place, name, function)


def earlier(checkout: Path) -> Any:
    """learn/rollouts.py of another checkout, beside this one's other modules."""
    spec = importlib.util.spec_from_file_location("earlier", checkout / "plad_bench" / "learn" / "rollouts.py")
    if spec is None or spec.loader is None:
        sys.exit(f"{checkout} is no checkout of plad-bench")
    module = importlib.util.module_from_spec(spec)
    sys.modules["earlier"] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Take turns, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--prompt", type=int, default=64, help="tokens of the longest prompt; half as many the shortest"
    )
    parser.add_argument("--new", type=int, default=190, help="new tokens at most")
    parser.add_argument("--ends", type=int, default=0, help="one token in so many ends a text; 0: as good as none")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    device = torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.machine()}, one thread"
    print(f"{device}; Python {platform.python_version()}, {versions}; {' '.join(sys.argv[1:]) or 'defaults'}\n")
    parts = {}
    print("| way | side | seconds | ms/token | of `now` | same |\n| :-- | :-- | --: | --: | --: | --: |")
    for name in given.ways:
        race = Race(given, WAYS[name])
        sides = race.sides()
        made, best = {side: run(0) for side, run in sides.items()}, dict.fromkeys(sides, float("inf"))
        for turn in range(1, given.turns + 1):
            for side, run in sides.items():
                began = clock(given.device)
                run(turn)
                best[side] = min(best[side], clock(given.device) - began)
        longest = max(map(len, made["now"]))
        for side, seconds in best.items():
            same = (
                sum(a == b for a, b in zip(made[side], made["before"], strict=True))
                if "before" in made and made[side]
                else ""
            )
            print(
                f"| {name} | {side} | {seconds:.3f} | {1000 * seconds / longest:.2f} | {seconds / best['now']:.2f} | "
                f"{f'{same} of {given.batch}' if same != '' else ''} |"
            )
        parts[name] = race.parts()
    columns = list(dict.fromkeys(part for one in parts.values() for part in one))
    print(f"\n| way | {' | '.join(columns)} |\n| :-- |{' --: |' * len(columns)}")
    for name, one in parts.items():
        whole = sum(one.values())
        print(f"| {name} | {' | '.join(f'{100 * one.get(c, 0) / whole:.0f} %' for c in columns)} |")


if __name__ == "__main__":
    main()

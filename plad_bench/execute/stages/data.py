"""The data stage: pool a task's examples, group them by prompt, split them by hash, audit the splits."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Example
from plad_bench.contract.registry import resolve
from plad_bench.execute.stages.files import Prompt, write_prompts
from plad_bench.execute.worker import Context

SHARES = {"train": 80, "validation": 8, "test": 12}
"""Percent of the prompts that each split gets."""


def run(context: Context) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    task = context.chosen("task")
    examples = resolve(task.component.load)(task.params)
    prompts = split(examples)
    for name in SHARES:
        context.counts[f"{name}_prompts"] = sum(p.split == name for p in prompts)
    empty = [name for name in SHARES if not context.counts[f"{name}_prompts"]]
    if empty:
        raise StageError(
            f"task {task.label}: the {' and '.join(empty)} split is empty ({len(prompts)} distinct prompts in all)",
            "Give it more data.",
        )
    if found := leaks(prompts):
        raise StageError(f"task {task.label}: {len(found)} prompts leak between splits: {found[0]}")
    context.counts["references"] = sum(len(p.references) for p in prompts)
    write_prompts(context.out, prompts, SHARES)


def split(examples: Iterable[Example]) -> list[Prompt]:
    """Group examples whose prompts are near-duplicates and assign each group to a split by the hash of its prompt.

    Near-duplicates have the same words in any order, whatever the case, spacing and punctuation; they share one id
    and pool their references, so no split can hold a prompt of another. Sorted by id.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[signature(example.prompt)].append(example)
    prompts = []
    for mark, group in sorted((hashlib.sha256(s.encode()).hexdigest(), g) for s, g in groups.items()):
        references = tuple(dict.fromkeys(r for e in group for r in e.references))
        first = group[0]
        prompts.append(
            Prompt(id=mark[:16], split=_split_of(mark), prompt=first.prompt, references=references, meta=first.meta)
        )
    return prompts


def signature(prompt: str) -> str:
    """What near-duplicate prompts have in common: their words, sorted, without case and punctuation."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", prompt).casefold())
    return " ".join(sorted(words)) or prompt


def leaks(prompts: Sequence[Prompt]) -> list[str]:
    """Prompts that recur, exactly or nearly, in another split: one line each, naming both."""
    home: dict[str, Prompt] = {}
    found = []
    for prompt in prompts:
        other = home.setdefault(signature(prompt.prompt), prompt)
        if other.split != prompt.split:
            found.append(f"{prompt.id} ({prompt.split}) is {other.id} ({other.split}): {prompt.prompt[:80]!r}")
    return found


def _split_of(mark: str) -> str:
    point = int(mark[16:32], 16) % 100
    for name, share in SHARES.items():
        if point < share:
            return name
        point -= share
    raise AssertionError

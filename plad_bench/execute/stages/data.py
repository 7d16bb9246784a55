"""The data stage: pool a task's examples, group them by prompt, split them by hash, audit the splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Example, Loaded, Origin
from plad_bench.contract.registry import resolve
from plad_bench.contract.rows import LISTED, Account, log
from plad_bench.execute.stages.files import Prompt, words, write_prompts
from plad_bench.execute.stages.near import near_duplicates
from plad_bench.execute.worker import Context

SHARES = {"train": 80, "validation": 8, "test": 12}
"""Percent of the prompts that each split gets."""


def run(context: Context) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    task = context.chosen("task")
    prompts = split(_usable(context, task.label, resolve(task.component.load)(task.params)))
    prompts = _without_near_duplicates(context, prompts, drop=task.component.near_duplicates == "drop")
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


def _usable(context: Context, task: str, rows: Iterable[Loaded]) -> list[Example]:
    """The examples; the rows that are none are left out. Errors as `Account.close`."""
    examples: list[Example] = []
    account = Account(f"task {task}")
    for row in rows:
        if isinstance(row, Origin):
            context.notes["origin"] = {"id": row.id, "revision": row.revision}
        elif isinstance(row, Example):
            examples.append(row)
        else:
            account.add(row)
    account.read = len(examples)
    account.close(context.counts, context.notes)
    return examples


def _without_near_duplicates(context: Context, prompts: list[Prompt], *, drop: bool) -> list[Prompt]:
    """The prompts, without those that nearly repeat one of a later split if they are to be dropped.

    They are counted and named either way: in the notes where they stay, since the data is as it was without an audit.
    """
    found = near_duplicates(prompts)
    if found:
        what = f"{len(found)} prompts nearly repeat one of a later split"
        log(f"{what} and are left out" if drop else what, [str(near) for near in found[:LISTED]])
        context.notes["near_duplicates"] = {
            "prompts": len(found),
            "dropped": drop,
            "first": [f"{near.prompt.id} {near.other.id}" for near in found[:LISTED]],
        }
    if not (drop and found):
        return prompts
    context.counts["near_duplicates_dropped"] = len(found)
    gone = {near.prompt.id for near in found}
    return [p for p in prompts if p.id not in gone]


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
    return " ".join(sorted(words(prompt))) or prompt


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

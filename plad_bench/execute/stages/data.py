"""The data stage: pools a task's examples, groups them by prompt, splits them by hash, and audits the splits."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Example, Loaded, Origin
from plad_bench.contract.registry import resolve
from plad_bench.contract.rows import LISTED, Account, log
from plad_bench.contract.words import canonical, tokens
from plad_bench.execute.stages.files import Prompt, write_prompts
from plad_bench.execute.stages.given_splits import given_splits
from plad_bench.execute.stages.near_duplicates import near_duplicates
from plad_bench.execute.worker import Context
from plad_bench.plan.chosen import Chosen

SHARES = {"train": 80, "validation": 8, "test": 12}
"""Percentage of the prompts in each split."""


@dataclass
class Prepared:
    """A task's prompts, and counts and notes about its rows."""

    prompts: list[Prompt] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def run(context: Context) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    prepared = prepare(context.chosen("task"))
    context.counts |= prepared.counts
    context.notes |= prepared.notes
    write_prompts(context.out, prepared.prompts, SHARES)


def prepare(task: Chosen) -> Prepared:
    """Read a task, group and split its prompts, and audit the splits.

    Raises:
        MissingError: if the data is not available.
        StageError: for unusable data: too many bad rows, an empty split, a prompt in two splits.
    """
    made = Prepared()
    examples = _usable(made, task.label, resolve(task.component.load)(task.params))
    given = given_splits(examples, signature)
    if given.left_out:
        made.counts["left_to_a_later_split"] = given.left_out
    made.prompts = split(given.examples)
    _count_merged(made, given.examples)
    _look_for_near_duplicates(made, drop=task.params.near_duplicates == "drop")  # type: ignore[attr-defined]
    for name in SHARES:
        made.counts[f"{name}_prompts"] = sum(p.split == name for p in made.prompts)
    if empty := [name for name in SHARES if not made.counts[f"{name}_prompts"]]:
        raise _empty(task.label, empty, made)
    if found := leaks(made.prompts):
        raise StageError(f"task {task.label}: {len(found)} prompts leak between splits: {found[0]}")
    made.counts["references"] = sum(len(p.references) for p in made.prompts)
    return made


def preview(task: Chosen) -> Prepared:
    """The result of `prepare` for a plan, without logging. Errors as `prepare`."""
    task.component.require(task.params)
    with contextlib.redirect_stdout(io.StringIO()):
        return prepare(task)


def _usable(made: Prepared, task: str, rows: Iterable[Loaded]) -> list[Example]:
    """The examples without bad rows. Errors as `Account.close`."""
    examples: list[Example] = []
    account = Account(f"task {task}")
    for row in rows:
        if isinstance(row, Origin):
            made.notes["origin"] = {"id": row.id, "revision": row.revision}
        elif isinstance(row, Example):
            examples.append(row)
        else:
            account.add(row)
    account.read = len(examples)
    account.close(made.counts, made.notes)
    return examples


def _count_merged(made: Prepared, examples: Sequence[Example]) -> None:
    """Count the rows merged into another row's prompt, and the prompts that share their split with another prompt."""
    groups: dict[str, int] = defaultdict(int)
    for prompt in made.prompts:
        groups[signature(prompt.prompt)] += 1
    given = sum(len(e.references) for e in examples)
    counts = {
        "rows_merged": len(examples) - len(made.prompts),
        "references_repeated": given - sum(len(p.references) for p in made.prompts),
        "same_words": sum(n for n in groups.values() if n > 1),
    }
    made.counts |= {name: n for name, n in counts.items() if n}


def _look_for_near_duplicates(made: Prepared, *, drop: bool) -> None:
    """Count and list the prompts that nearly repeat one of a later split; drop them if the task says so."""
    found = near_duplicates(made.prompts)
    if not found:
        return
    what = f"{len(found)} prompts nearly repeat one of a later split"
    log(f"{what} and are left out" if drop else what, [str(near) for near in found[:LISTED]])
    made.counts["near_duplicates_dropped" if drop else "near_duplicates"] = len(found)
    made.notes["near_duplicates"] = {
        "prompts": len(found),
        "dropped": drop,
        "first": [f"{near.prompt.id} {near.other.id}" for near in found[:LISTED]],
    }
    if drop:
        gone = {near.prompt.id for near in found}
        made.prompts = [p for p in made.prompts if p.id not in gone]


def _empty(task: str, splits: Sequence[str], made: Prepared) -> StageError:
    """The error of data with an empty split, with counts of its rows."""
    groups = len({signature(p.prompt) for p in made.prompts})
    facts = [f"{len(made.prompts)} distinct prompts in all"]
    if groups < len(made.prompts):
        facts.append(f"only {groups} of them differ in their words, and the same words share a split")
    if merged := made.counts.get("rows_merged"):
        facts.append(f"{merged:.0f} more rows repeat one of these prompts")
    if dropped := made.counts.get("near_duplicates_dropped"):
        facts.append(f"{dropped:.0f} near-duplicates were dropped (near_duplicates=drop)")
    return StageError(
        f"task {task}: the {' and '.join(splits)} split is empty ({'; '.join(facts)})", "Provide more distinct prompts."
    )


def split(examples: Iterable[Example]) -> list[Prompt]:
    """Merge examples with the same prompt, keeping all references, and split the prompts.

    Prompts are the same if their texts are equal once normalised (NFC), white space aside. Prompts with the same words,
    in any order, case and punctuation, share a split, which the hash of these words decides; each keeps its own
    references. A prompt's id is that hash, or the hash of its text if others have the same words. Splits that examples
    name take precedence, and an example whose prompt is also in a later split is left out. Sorted by id.
    """
    given = given_splits(examples, signature)
    shares = given.shares(SHARES)
    groups: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in given.examples:
        groups[signature(example.prompt)][canonical(example.prompt)].append(example)
    prompts = []
    for words, texts in groups.items():
        mark = _hash(words)
        for text, same in texts.items():
            first = same[0]
            prompts.append(
                Prompt(
                    id=(mark if len(texts) == 1 else _hash(text))[:16],
                    split=given.by_words.get(words) or _split_of(mark, shares),
                    prompt=first.prompt,
                    references=tuple(dict.fromkeys(r for e in same for r in e.references)),
                    meta=first.meta,
                )
            )
    return sorted(prompts, key=lambda prompt: prompt.id)


def signature(prompt: str) -> str:
    """The common key of prompts that share a split: their sorted words without case and punctuation, or the text."""
    return " ".join(sorted(tokens(prompt))) or canonical(prompt)


def leaks(prompts: Sequence[Prompt]) -> list[str]:
    """Prompts with the same words as a prompt of another split: one line each, naming both."""
    home: dict[str, Prompt] = {}
    found = []
    for prompt in prompts:
        other = home.setdefault(signature(prompt.prompt), prompt)
        if other.split != prompt.split:
            found.append(f"{prompt.id} ({prompt.split}) is {other.id} ({other.split}): {prompt.prompt[:80]!r}")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _split_of(mark: str, shares: Mapping[str, int]) -> str:
    point = int(mark[16:32], 16) % sum(shares.values())
    for name, share in shares.items():
        if point < share:
            return name
        point -= share
    raise AssertionError

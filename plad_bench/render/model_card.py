"""The model card of a distilled checkpoint and its model-index, from its record and its board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plad_bench.contract.errors import UsageError
from plad_bench.contract.names import slug
from plad_bench.contract.protocol import Protocol
from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.board import Board, Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.records import text
from plad_bench.records.schema import Record
from plad_bench.records.storage import at
from plad_bench.records.text import NONE, clean, code, escape
from plad_bench.render import entries, markdown, origin
from plad_bench.render.pieces import plain

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


@dataclass(frozen=True)
class HubIds:
    """Where the base model and the data are published, which the record does not say; empty if unknown."""

    base_model: str = ""
    """Hub id."""
    dataset: str = ""
    """Hub id."""


@dataclass(frozen=True)
class Weights:
    """What a card must know of the weights beside it, and the record does not say."""

    remade: bool = False
    """Whether they were trained again, and so differ from those that the record scores."""
    encoder_decoder: bool = False


def model_index(record: Record, origin: HubIds) -> str:
    """The record's scores as YAML, in the format of model cards on the Hub.

    Raises:
        UsageError: if the record has no scores.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(model_name=_name(record), eval_results=_results(record, origin))
    return data.to_yaml() + "\n"


EVAL_RESULTS = ".eval_results/plad-bench.yaml"
"""The place of evaluation results in a model's repository on the Hub."""


def hub_dataset(record: Record, origin: HubIds) -> str:
    """Hub id of the task's data; empty if the Hub does not have it."""
    return origin.dataset or str(at(record.provenance, "notes", "data", "origin", "id") or "")


def eval_results(record: Record, origin: HubIds) -> str:
    """The record's scores as YAML for a file below `.eval_results/` of a model's repository on the Hub.

    The format: https://huggingface.co/docs/hub/eval-results

    Raises:
        UsageError: if the record has no scores, or the Hub does not have the task's data.
    """
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    known = _known(record)
    dataset = hub_dataset(record, origin)
    if not dataset:
        raise UsageError(
            f"the data of {clean(record.task.selector)} is not on the Hub, which evaluation results refer to",
            "Use `plad-bench export model-index`, which takes any name of a data set.",
        )
    split = record.protocol.get("split", "test")
    of = f"the {split} split of plad-bench's task {record.task.selector}; seed {record.seed}"
    revision, date = at(record.provenance, "notes", "data", "origin", "revision"), record.provenance.get("date")
    written = yaml_dump(
        [
            {
                "dataset": {
                    "id": clean(dataset),
                    "task_id": clean(metric.name),
                    **({"revision": clean(revision)} if revision else {}),
                },
                "value": text.rounded(metric.scale * part.value),
                **({"date": clean(date)} if date else {}),
                "notes": clean(f"{_title(metric)}; mean over {part.n} prompts of {of}", 500),
            }
            for metric, part in known
        ]
    )
    return str(written)


def render(record: Record, board: Board | None, origin: HubIds, weights: Weights | None = None) -> str:
    """The README.md of a checkpoint.

    Args:
        record: the record of the checkpoint's cell, with the scores of its weights.
        board: the record's board, for the method's interval over seeds, its rank and the baselines; None if there is
            none.
        origin: where base model and data are published.
        weights: the weights beside the card; None for a card alone, which describes those of the record.

    Raises:
        UsageError: if the record has no scores, unless the weights were trained again.
    """
    weights = weights or Weights()
    parts = [
        f"---\n{_metadata(record, origin, weights).to_yaml()}\n---",
        f"# {code(record.student.selector)} distilled with {code(record.method.selector)}",
        f"Taught by {code(record.teacher.selector)} on the task {code(record.task.selector)}; seed {record.seed}. "
        "Trained and evaluated with plad-bench under the protocol that all methods of its board share.",
    ]
    if record.status == "trial":
        parts.append("**A trial on part of the data: do not rely on its scores.**")
    parts += ["## How to use", *_usage(record, weights)]
    parts += ["## Training", _facts(_training(record, origin))]
    parts += ["## Scores", *_scores(record, board, weights)]
    if record.cost:
        parts += [
            "## Cost",
            _facts(
                (escape(name.replace("_", " "), 60), _cost(name, value)) for name, value in sorted(record.cost.items())
            ),
        ]
    parts += ["## Provenance", _facts(_provenance(record, board)), *_reproduce(record)]
    return "\n\n".join(parts) + "\n"


def _metadata(record: Record, origin: HubIds, weights: Weights) -> ModelCardData:
    from huggingface_hub import ModelCardData

    results = [] if weights.remade and not record.metrics else _results(record, origin)
    return ModelCardData(
        base_model=origin.base_model or None,
        datasets=[origin.dataset] if origin.dataset else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "plad-bench", clean(record.method.name)],
        model_name=_name(record) if results else None,
        eval_results=results or None,
    )


def _name(record: Record) -> str:
    return slug(clean(f"{record.student.name}-{record.method.selector}-{record.task.name}-{record.seed}"))


def _results(record: Record, origin: HubIds) -> list[Any]:
    from huggingface_hub import EvalResult

    known = _known(record)
    split = record.protocol.get("split")
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=origin.dataset or clean(record.task.name),
            dataset_name=clean(record.task.selector),
            dataset_split=clean(split) if split else None,
            metric_type=clean(metric.name),
            metric_name=_title(metric),
            metric_value=text.rounded(metric.scale * part.value),
        )
        for metric, part in known
    ]


def _known(record: Record) -> list[tuple[MetricInfo, Any]]:
    """The metrics with a value. Raises UsageError if there are none."""
    known = [(metric, part) for metric, part in _metrics(record) if part.value is not None]
    if not known:
        raise UsageError(
            f"{clean(record.cell)} has no scores: it is {record.status}",
            "Name a cell whose status is done, as `plad-bench show` prints it.",
        )
    return known


def _metrics(record: Record) -> list[tuple[MetricInfo, Any]]:
    final = sorted((name, part) for name, part in record.metrics.items() if part.point is None)
    return [(MetricInfo(name, part.better, part.unit), part) for name, part in final]


def _title(metric: MetricInfo) -> str:
    better = f", {metric.better} is better" if metric.better else ""
    return clean(f"{metric.name}{f' in {metric.unit}' if metric.unit else ''}{better}")


_CODE = """\
from transformers import {kind}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = {kind}.from_pretrained("DIRECTORY", dtype="{dtype}")


def respond(prompt):
{encode}
    output = model.generate(**inputs, do_sample=False, max_new_tokens={length}{end})
    return tokenizer.decode(output[0{answer}], skip_special_tokens=True)


print(respond("Your prompt"))"""

_ENCODE = """\
    text = {text}.replace("{{prompt}}", prompt)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")"""

_ENCODE_UNRECORDED = """\
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    else:
        inputs = tokenizer(prompt + "\\n", return_tensors="pt")"""
"""For records of earlier versions, which have no prompt format."""

_ENCODE_ENCODER = """\
    inputs = tokenizer(prompt, return_tensors="pt")"""


def _usage(record: Record, weights: Weights) -> Sequence[str]:
    """The prompt format of training and evaluation, in words and as code."""
    given = at(record.provenance, "notes", "generate", "prompts")
    text, end = at(given, "text"), at(given, "end")
    if isinstance(text, str) and "{prompt}" in text and not weights.encoder_decoder:
        encode = _ENCODE.format(text=ascii(text))
        words = (
            f"Prompt format: {escape(ascii(text), 2000)}, where {escape('{prompt}')} stands for the prompt. Keep every "
            "special token, space and line break: the output differs without them."
        )
    elif weights.encoder_decoder:
        encode, words = (
            _ENCODE_ENCODER,
            "Prompt format: the prompt and the tokenizer's end token, which the tokenizer adds.",
        )
    else:
        encode = _ENCODE_UNRECORDED
        words = (
            "Prompt format: the prompt, followed by one line break; or, if the tokenizer has a chat template, the "
            "prompt as the user's turn. Without the line break the output differs."
        )
    protocol = record.protocol
    limit = protocol.get("max_new_tokens")
    length = limit if isinstance(limit, int) else 256
    settings = (
        f"This code generates as the evaluation did, with greedy decoding of at most {length} new tokens. Replace "
        "DIRECTORY with the path of the checkpoint or its id on the Hub."
    )
    snippet = _CODE.format(
        kind="AutoModelForSeq2SeqLM" if weights.encoder_decoder else "AutoModelForCausalLM",
        dtype={"bf16": "bfloat16"}.get(str(protocol.get("precision")), "float32"),
        encode=encode,
        length=length,
        end=f", eos_token_id=tokenizer.convert_tokens_to_ids({end!a})" if isinstance(end, str) else "",
        answer="" if weights.encoder_decoder else ', inputs["input_ids"].shape[1] :',
    )
    return words, settings, f"```python\n{snippet}\n```"


def _training(record: Record, origin: HubIds) -> Iterable[tuple[str, str]]:
    method, task = record.method, record.task
    yield "Base model", code(origin.base_model) if origin.base_model else _component(record.student)
    yield "Teacher", _component(record.teacher)
    paper = f", {escape(method.paper)}" if method.paper else ""
    yield "Method", f"{code(method.name)} version {method.version}{paper}; from {escape(method.plugin) or NONE}"
    yield "Parameters", _params(method.params)
    if record.pairs:
        yield "Pairs", _component(record.pairs)
    shared = "shared by all methods of the board" if method.lr_shared else "its own"
    yield "Learning rate", f"{method.lr:g}, {shared}" if method.lr else NONE
    yield "Protocol", _params(record.protocol)
    yield "Data", code(origin.dataset) if origin.dataset else _component(task)
    redistribution = "" if task.redistributable else "; its text may not be redistributed"
    yield "Licence of the data", f"{escape(task.licence)}{redistribution}"
    yield (
        "Licence of the model",
        "to be stated by its publisher; the licences of base model, teacher and data may apply",
    )


def _component(part: Any) -> str:
    params = f" ({_params(part.params)})" if part.params else ""
    return f"{code(part.name)} version {part.version}{params}"


def _params(params: dict[str, Any]) -> str:
    return ", ".join(f"{escape(name, 60)} = {escape(value)}" for name, value in sorted(params.items())) or NONE


def _cost(name: str, value: float) -> str:
    reads = {"seconds": text.seconds, "bytes": text.size}.get(name.rpartition("_")[2], text.amount)
    return reads(value)


def _scores(record: Record, board: Board | None, weights: Weights) -> list[str]:
    on = f" on board {code(board.name)}" if board is not None else ""
    remade = [
        f"**These weights were trained again, and are not those of the record{on}.** "
        + (
            "The scores of this checkpoint are of these weights; all other columns come from the record's board."
            if record.metrics
            else f"The store has no scores of these weights, so none are given. The record{on} scores other weights."
        )
    ] * weights.remade
    if not record.metrics:
        return remade
    group, row = _found(record, board)
    baselines = [baseline for baseline in group.baselines if baseline is not row] if group else []
    columns = [*([row] if row else []), *baselines]
    head = ["Metric", "This checkpoint"]
    head += [f"{code(other.label)}, {len(other.cells)} seed{'s'[: len(other.cells) != 1]}" for other in columns]
    body = []
    order = {metric.name: place for place, metric in enumerate(group.metrics)} if group else {}
    for metric, part in sorted(_metrics(record), key=lambda of: order.get(of[0].name, len(order))):
        own = statistics.of_examples(part.value, part.stderr, part.n)
        shown = [own, *(other.estimates.get(metric.name) for other in columns)]
        places = text.decimals_for(metric.scale * e.half_width for e in shown if e is not None)
        body.append([markdown.header(metric), *(entries.value(estimate, metric, places) for estimate in shown)])
    note = "Means with 95 % intervals, over seeds and examples or, with †, over examples only."
    if any(part.sampled for part in record.metrics.values()):
        temperature = {**Protocol.unsaid(), **record.protocol}["evaluate_temperature"]
        note += f" Names with @ are of responses sampled at temperature {escape(temperature, 20)}."
    if board is not None and row is not None and row.rank is not None and group is not None:
        note += f" On board {code(board.name)} the method has rank {entries.rank(row)} of {len(group.rows)}."
    return [*remade, markdown.table(head, body, "l" + "r" * (len(head) - 1)), note]


def _found(record: Record, board: Board | None) -> tuple[Group, Row] | tuple[None, None]:
    """The row of a board that has this record, and its group."""
    for group in board.groups if board else ():
        for row in (*group.rows, *group.baselines):
            if record.cell in row.cells:
                return group, row
    return None, None


def _provenance(record: Record, board: Board | None) -> Iterable[tuple[str, str]]:
    made = record.provenance
    if board is not None:
        yield "Board", code(board.name)
    yield "Record", code(record.cell)
    yield "Key of its responses", code(record.key)
    if board is not None and board.compute.executions and record.cost:
        yield "Compute of the board", escape(plain(origin.computed(board)), 1000)
    if record.scores:
        yield "Per-example scores", f"sha256 {code(record.scores.sha256)}, {record.scores.examples} examples"
    for title, value in (("Code", made.get("code")), ("Device", made.get("device"))):
        if value:
            yield title, code(value)
    for title, values in (
        ("Commit", made.get("git")),
        ("Packages", made.get("packages")),
        ("Notes", made.get("notes")),
    ):
        if isinstance(values, dict) and values:
            yield title, _params(values)


def _reproduce(record: Record) -> Sequence[str]:
    command = record.provenance.get("command")
    if not isinstance(command, str) or not command.strip():
        return []
    export = f"plad-bench export checkpoint {clean(record.cell, 1000)} DIRECTORY"
    return ["## How to reproduce", f"    {clean(command, 1000)}\n    {export}"]


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    return markdown.table(["", ""], rows, "ll")

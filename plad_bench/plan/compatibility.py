"""Whether a cell can run, and which metrics it can have, from declarations and local files, without torch."""

from __future__ import annotations

import filecmp
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import gguf, hub, training_budget
from plad_bench.contract.enums import Access, Need, Text
from plad_bench.contract.errors import MissingError
from plad_bench.contract.jsonlines import read_lines
from plad_bench.contract.models import HubModel, ScratchModel
from plad_bench.contract.objectives import TokenObjective
from plad_bench.plan import backends, expenses
from plad_bench.plan.cell import Cell
from plad_bench.plan.chosen import Chosen
from plad_bench.plan.reference_free import has_references, reads_references
from plad_bench.plan.stage import Stage
from plad_bench.plan.stages import is_scheduled, metrics_needs

if TYPE_CHECKING:
    from plad_bench.contract.views import CellView

logger = logging.getLogger("plad_bench")

Find = Callable[[str], Path | None]
"""Key of a stage -> the directory of its artifact, or None if there is none."""

_ALIKE = 0.95
"""Share of their tokens that two vocabularies have in common if only what counts as a special token differs."""
_NORMALISED = 8
"""Maximum number of bytes that a tokenizer's normalisation adds to a text."""


def skip_reason(cell: Cell) -> str:
    """The reason why a method cannot run with this teacher and student; empty if it can. Loads no models."""
    reason, method = _without_references(cell), cell.method
    if reason or method is None:
        return reason
    component, teacher = method.component, cell.teacher.component
    if refused := _refused(component.name, cell.plan.access(method), cell.teacher):
        return refused + _way_out(cell)
    if isinstance(component.objective, TokenObjective) and component.objective.teacher_logits:
        if teacher.model is None:
            return _refused(component.name, Access.LOGITS, cell.teacher)
        student = cell.student.component.model(cell.student.params)
        reason = _vocabulary_difference(student, teacher.model(cell.teacher.params))
        if component.shared_vocabulary and reason:
            return f"{component.name} compares logits token by token, but {reason}"
    return _pairs_reason(cell) or _rounds_reason(cell, method)


def absence_reason(cell: Cell, metric: Chosen) -> str:
    """The reason why a metric is absent for a cell; empty if it is not. Loads no models."""
    needs, name, teacher = metrics_needs(metric), metric.component.name, cell.teacher
    is_teacher = cell.row == "teacher" and cell.method is None
    runs_teacher = Need.TEACHER_LOGITS in needs or (Need.CHECKPOINT in needs and is_teacher)
    if runs_teacher and (refused := _refused(name, Access.LOGITS, teacher)):
        return refused
    if reason := _absent_without_references(cell, metric):
        return reason
    if metric.component.of_samples and cell.samples is None:
        if not cell.protocol.evaluate_samples:
            return f"{name} compares several responses to a prompt (--evaluate-samples)"
        return f"{teacher.label} is not sampled: its responses come from an endpoint or from a file"
    if Need.TEACHER_LOGITS in needs and not is_teacher:
        mine, other = (c.component.model(c.params) for c in (cell.outside or cell.student, teacher))
        if reason := _vocabulary_difference(mine, other):
            return f"{name} compares logits token by token, but {reason}"
    return ""


def over_budget(cell: Cell, facts: expenses.Facts) -> str:
    """The reason why a cell cannot be held to its budget, as far as the facts of its stages are known; empty if none.

    `facts` may lack stages that were not computed yet; their costs are then checked when its training begins.
    """
    if cell.method is None or not cell.protocol.budget:
        return ""
    budget, parts = cell.checkpoint.spec["budget"], cell.checkpoint.job["before"]
    if budget["kind"] in {"money", "teacher-tokens"} and (reason := _uncounted(cell, budget)):
        return reason
    return expenses.exceeded(budget, expenses.total(parts, facts))


def _uncounted(cell: Cell, budget: Mapping[str, Any]) -> str:
    """Why the cost of the teacher's responses is unknown; empty if it is known, or if the cell needs none."""
    if not any(stage.operation == "ask" for stage in cell.checkpoint.walk()):
        return ""
    price = cell.teacher.component.price
    if price is None:
        return f"{cell.teacher.label} has recorded responses, whose {budget['kind']} cannot be counted"
    by_token = budget.get("prices", {}).get("teacher_million_tokens") is not None
    if budget["kind"] == "money" and not by_token and price(cell.teacher.params) is None:
        return f"{cell.teacher.label} has no price (price_in=, price_out=), so its responses cannot be counted as money"
    return ""


def plugins_reason(cell: Cell) -> str:
    """The first reason that a plugin returns. Plugins that fail are logged and ignored."""
    shown: CellView = cell
    for impl in reversed(cell.registry.manager.hook.plad_bench_cell_skip.get_hookimpls()):
        try:
            reason = impl.function(cell=shown)
        except Exception:
            logger.exception("plugin %s failed in plad_bench_cell_skip", impl.plugin_name)
            continue
        if reason is not None:
            return str(reason)
    return ""


def _without_references(cell: Cell) -> str:
    """The reason why a cell cannot run without references; empty if it can, or if its task has references."""
    if has_references(cell.task):
        return ""
    reader = next(_readers(cell), "")
    return f"{reader}, but the task has none" if reader else ""


def _readers(cell: Cell) -> Iterator[str]:
    """Phrases for the components that need references to produce a cell's checkpoint."""
    training = cell.teacher.component.training(cell.teacher.params)
    if training is not None and training.steps:
        yield f"{cell.teacher.label} is fine-tuned on references first"
    if cell.method is None:
        return
    name, objective, params = cell.method.component.name, cell.method.component.objective, cell.method.params
    if isinstance(objective, TokenObjective):
        if Text.REFERENCE in objective.texts(params):
            yield f"{name} trains on references"
        if objective.schedule is not None and objective.schedule.validates:
            yield f"{name} uses the loss on validation references"
    if cell.pairs is not None and Text.REFERENCE in cell.pairs.component.needs:
        yield f"{cell.pairs.label} builds pairs with references"
    if cell.scorer is not None and reads_references(cell.scorer):
        yield f"{name} trains on scores of {cell.scorer.label}, which needs references"


def _absent_without_references(cell: Cell, metric: Chosen) -> str:
    """The reason why a metric is absent without references; empty if it is not."""
    if has_references(cell.task) or not reads_references(metric):
        return ""
    return f"{metric.component.name} needs references, but the task has none"


def _pairs_reason(cell: Cell) -> str:
    """The reason why the pair builder cannot run; empty if it can, or if there is none."""
    if cell.pairs is None:
        return ""
    if (metric := cell.orders) is not None and metric.component.better is None:
        return f"{metric.label} has no direction, so {cell.pairs.label} cannot order by it"
    needed = cell.pairs.component.samples(cell.pairs.params)
    there = cell.protocol.samples if cell.protocol.sample_temperature else 1
    if needed > there:
        return f"{cell.pairs.label} needs {needed} responses per prompt, but the run samples only {there} (--samples)"
    return ""


def _rounds_reason(cell: Cell, method: Chosen) -> str:
    """The reason why a method cannot be trained in the rounds that it was given; empty if it can."""
    count, objective = method.params.rounds, method.component.objective  # type: ignore[attr-defined]
    if count == 1:
        return ""
    texts = objective.texts(method.params) if isinstance(objective, TokenObjective) else ()
    sampled = Text.SAMPLE in (*texts, *(cell.pairs.component.needs if cell.pairs else ()))
    keeps = Text.REPLAY in texts or is_scheduled(method)
    budget, steps = training_budget.parse(cell.protocol.budget), cell.protocol.steps
    wrong = {
        f"{method.label} does not train on off-policy samples, so it cannot train in rounds": not sampled,
        f"{method.label} has a schedule or a replay buffer, which a round would begin anew": keeps,
        f"models are not evaluated during a training in rounds ({method.label}, --evaluate-at)": bool(
            cell.protocol.evaluate_at
        ),
        f"a budget of {budget and budget.words} is not divided into rounds ({method.label})": budget is not None,
        f"{steps} steps cannot be divided into {count} rounds": count > steps,
    }
    return next((reason for reason, holds in wrong.items() if holds), "")


def _refused(name: str, access: Access, teacher: Chosen) -> str:
    """The reason if a teacher does not provide the access; empty if it does."""
    best = max((*teacher.component.provides, Access.NONE), key=lambda given: given.tier)
    if access.tier <= best.tier:
        return ""
    return f"{name} needs the teacher's {access.value}; {teacher.label} provides {best.value}"


def _way_out(cell: Cell) -> str:
    """A hint if a teacher with top-k log-probabilities can be used with --teacher-logprobs; otherwise empty."""
    kept = replace(cell.plan, protocol=replace(cell.protocol, teacher_logprobs="top-64"))
    can = cell.method is not None and not _refused("", kept.access(cell.method), cell.teacher)
    return " (--teacher-logprobs top-64 works with top-k log-probabilities)" if can else ""


def _vocabulary_difference(student: Any, teacher: Any) -> str:
    if isinstance(student, ScratchModel) and isinstance(teacher, ScratchModel):
        if student.vocabulary != teacher.vocabulary:
            return f"the student's tokenizer has {student.vocabulary} tokens and the teacher's {teacher.vocabulary}"
        return ""
    both_published = isinstance(student, HubModel) and isinstance(teacher, HubModel)
    either_scratch = isinstance(student, ScratchModel) or isinstance(teacher, ScratchModel)
    if either_scratch or (both_published and tokenizers_differ(student, teacher)):
        return "student and teacher have different tokenizers"
    return ""


def tokenizers_differ(student: HubModel, teacher: HubModel) -> bool:
    """Whether the vocabularies of two published models differ; False if their files are not available locally."""
    here = [hub.located(model.id, model.revision) for model in (student, teacher)]
    files = [place if gguf.is_gguf(place) else place / "tokenizer.json" for place in here if place is not None]
    return len(files) == 2 and all(file.is_file() for file in files) and _differ(*files)


def no_room(cell: Cell, find: Find) -> str:
    """The reason if prompts exceed the context of a model that generates for the cell; empty if not, or if unknown."""
    for stage in cell.stages:
        if "max_new_tokens" not in stage.spec:
            continue
        for role in ("model", "teacher"):  # during training, the teacher reads the student's responses
            reason = _no_room(stage, root(stage.inputs[role]), find) if role in stage.inputs else ""
            if reason:
                return reason
    return ""


def _no_room(stage: Stage, model: Stage, find: Find) -> str:
    """`no_room` for one generating stage, including training, and one of its models."""
    new = stage.spec["max_new_tokens"]
    context, name = _context(model)
    if context is None:
        return ""
    room = context - new
    if room < 1:
        return f"{name} has a context of {context} tokens, too short for {new} new tokens"
    data, tokenizer = find(stage.inputs["data"].key), tokenizer_of(model, find)
    if data is None or tokenizer is None:
        return ""
    split = stage.spec.get("split", "train")
    texts = _prompts(data / f"{split}.jsonl", stage.spec.get("limit", 0))
    count = _too_long(texts, tokenizer, room)
    return (
        f"{count} of {len(texts)} {split} prompts are longer than {room} tokens, all that {name}'s context of "
        f"{context} tokens leaves for prompts with {new} new tokens"
        if count
        else ""
    )


def root(stage: Stage) -> Stage:
    """The stage that a model begins from, before any training of ours."""
    while "model" in stage.inputs:
        stage = stage.inputs["model"]
    return stage


def _context(init: Stage) -> tuple[int | None, str]:
    """The context length of a model in tokens (None if unknown) and its name."""
    if "context" in init.spec:
        return init.spec["context"], _name(init)
    text = config_of(init)
    known = None if text.get("is_encoder_decoder") else text.get("max_position_embeddings") or text.get("n_positions")
    return known if isinstance(known, int) else None, _name(init)


def config_of(init: Stage) -> dict[str, Any]:
    """The text configuration of a published model; empty if its files are unavailable or broken."""
    directory = hub.located(init.job["id"], init.job["revision"]) if "id" in init.job else None
    try:
        if directory is not None and gguf.is_gguf(directory):
            return gguf.header(directory).config
        config = hub.settings(directory / "config.json", "") if directory is not None else {}
    except MissingError:
        return {}
    part = config.get("text_config")
    return {**config, **(part if isinstance(part, dict) else {})}


def _name(init: Stage) -> str:
    if "id" not in init.job:
        return "the model from scratch"
    return Path(init.job["id"]).name if Path(init.job["id"]).is_absolute() else str(init.job["id"])


def not_for_vllm(cell: Cell) -> str:
    """The reason why vLLM cannot run a model of the cell; empty if it can, or if unknown."""
    run = ((s, option) for s in cell.stages if (option := backends.vllm_option(s.spec)))
    return next(filter(None, (_not_for_vllm(stage, option) for stage, option in run)), "")


def _not_for_vllm(stage: Stage, option: str) -> str:
    init = root(stage.inputs.get("model") or stage.inputs["teacher"])
    config = {**init.spec, **config_of(init)}
    if config.get("is_encoder_decoder"):
        return f"the vllm backend does not support the encoder-decoder {_name(init)} (use --{option} transformers)"
    if "lora" in stage.spec:
        return "vLLM does not sample from a student with LoRA adapters during training (use --rollouts transformers)"
    sizes, size = backends.head_sizes(), _head_size(config)
    if size is None or sizes is None or size in sizes:
        return ""
    return (
        f"{_name(init)} has attention heads of size {size}; vLLM on a CPU supports "
        f"{', '.join(map(str, sizes))} (--{option} transformers supports any)"
    )


def _head_size(config: Mapping[str, Any]) -> int | None:
    """The attention head size, from a configuration or the specification of a model from scratch."""
    said, width, heads = (
        next((config[name] for name in names if isinstance(config.get(name), int) and config[name] > 0), None)
        for names in (("head_dim",), ("width", "hidden_size", "n_embd"), ("heads", "num_attention_heads", "n_head"))
    )
    return said or (width // heads if width and heads else None)


def tokenizer_of(init: Stage, find: Find) -> Path | None:
    """The tokenizer file of a model, if it is here."""
    if "tokenizer" in init.inputs:
        made = find(init.inputs["tokenizer"].key)
        directory = made / "tokenizer" if made else None
    else:
        directory = hub.located(init.job["id"], init.job["revision"])
    file = directory / "tokenizer.json" if directory else None
    return file if file and file.is_file() else None


@functools.cache
def _prompts(file: Path, limit: int) -> tuple[str, ...]:
    return tuple(row["prompt"] for row in itertools.islice(read_lines(file), limit or None))


@functools.cache
def _too_long(texts: Sequence[str], tokenizer: Path, room: int) -> int:
    """The number of texts with more than `room` tokens. Texts have no more tokens than bytes, so few need encoding."""
    candidates = [text.strip() for text in texts if len(text.encode()) + _NORMALISED > room]
    loaded = loaded_tokenizer(tokenizer) if candidates else None
    if loaded is None:
        return 0
    loaded.no_truncation()
    loaded.no_padding()
    return sum(len(loaded.encode(text, add_special_tokens=False).ids) > room for text in candidates)


@functools.cache
def _differ(one: Path, other: Path) -> bool:
    if filecmp.cmp(one, other, shallow=False):
        return False
    both = _vocabulary(one), _vocabulary(other)
    if None in both or not (gguf.is_gguf(one) or gguf.is_gguf(other)):
        return None not in both and both[0] != both[1]
    # A GGUF file may call other tokens special.
    ours, theirs = (dict(found or {}) for found in both)
    shared = ours.keys() & theirs.keys()
    return len(shared) < _ALIKE * max(len(ours), len(theirs)) or any(ours[token] != theirs[token] for token in shared)


@functools.lru_cache(maxsize=4)
def _vocabulary(file: Path) -> dict[str, int] | None:
    """The vocabulary without special tokens; None if the file is not a tokenizer."""
    if gguf.is_gguf(file):
        try:
            return dict(gguf.header(file).text_tokens)
        except MissingError:  # reported when the model's files are checked
            return None
    loaded = loaded_tokenizer(file)
    if loaded is None:
        return None
    special = {token.content for token in loaded.get_added_tokens_decoder().values() if token.special}
    special -= loaded.get_vocab(with_added_tokens=False).keys()
    return {token: number for token, number in loaded.get_vocab().items() if token not in special}


def loaded_tokenizer(file: Path) -> Any:
    """Load a tokenizer file; None if it is invalid, which the stage that needs it reports."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception:  # noqa: BLE001  the library has no exception class of its own
        return None

"""Tasks of the Language Model Evaluation Harness (lm-eval), built in or from local files, as a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from plad_bench import Metric, MissingError, Need, Params, Scored, StageError, Tools, param
from plad_bench.contract.suggestions import near_matches, suggestion


class LMEvalParams(Params):
    """The tasks and their metric."""

    tasks: str = param("", source="ours")
    """Names of tasks, groups or tags, separated by commas (then in quotes) or by +."""
    include_path: Path | None = param(None, local=True, source="ours")
    """Directory with your own task files (YAML, with their data). Keys and records contain the hash of its content."""
    metric: str = param("acc", source="ours")
    """The tasks' metric to use, such as acc or exact_match: a number per document, higher is better."""
    filter: str = param("", source="ours")
    """The tasks' filter of responses whose metric is used; by default the first one."""
    num_fewshot: int | None = param(None, ge=0, source="the tasks' own")
    """Examples in each prompt; unset uses the tasks' number."""
    limit: int = param(0, ge=0, source="ours")
    """Use this many documents of each task; 0: all."""
    chat: bool = param(False, source="lm-eval")
    """Apply the model's chat template."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.names:
            msg = "name the tasks: tasks=hellaswag"
            raise ValueError(msg)
        return self

    @property
    def names(self) -> list[str]:
        """The tasks, one by one."""
        return [name.strip() for name in re.split(r"[,+]", self.tasks) if name.strip()]


def require(params: LMEvalParams) -> None:
    """Check that lm-eval is installed and has the tasks.

    Raises:
        MissingError: if not.
    """
    if find_spec("lm_eval") is None:
        raise MissingError("metric lm-eval needs the package lm-eval", "Install it: pip install 'plad-bench[lm-eval]'.")
    _manager(params)


def score(examples: Sequence[Scored], params: LMEvalParams, tools: Tools) -> dict[str, float]:
    """The metric of every document of the tasks, by "task/document"."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from plad_bench.learn.memory import fit

    model = tools.checkpoint()
    manager = _manager(params)

    def evaluate(size: int) -> Any:
        return simple_evaluate(
            model=HFLM(pretrained=model.model, tokenizer=model.tokenizer, device=tools.device, batch_size=size),
            tasks=params.names,
            task_manager=manager,
            num_fewshot=params.num_fewshot,
            limit=params.limit or None,
            apply_chat_template=params.chat,
            bootstrap_iters=0,
            log_samples=True,
        )

    try:
        found = fit(evaluate, 16, tools.memory_policy, what="one request of lm-eval")
    except (ConnectionError, FileNotFoundError) as error:
        said = str(error).splitlines()[0]
        raise MissingError(f"the data of {params.tasks} is missing: {said}", "Connect to the hub once.") from error
    return dict(pair for task, rows in found["samples"].items() for pair in _values(task, rows, found, params))


def _values(
    task: str, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], params: LMEvalParams
) -> Iterator[tuple[str, float]]:
    wanted = params.filter or rows[0]["filter"]
    kept = [row for row in rows if row["filter"] == wanted]
    if not kept:
        raise StageError(f"task {task} has no filter {wanted!r}", f"There are: {_names(r['filter'] for r in rows)}.")
    names = kept[0]["metrics"]
    if params.metric not in names:
        raise StageError(f"task {task} has no metric {params.metric!r}", f"There are: {_names(names)}; set metric=.")
    if found["higher_is_better"].get(task, {}).get(params.metric) is False:
        raise StageError(f"lower is better for {params.metric} of task {task}", "Use one where higher is better.")
    for row in kept:
        try:
            value = float(row[params.metric])
        except (TypeError, ValueError):
            raise StageError(
                f"{params.metric} of task {task} is not a number per document", "Use another metric=."
            ) from None
        yield f"{task}/{row['doc_id']}", math.nan if math.isinf(value) else value


def _manager(params: LMEvalParams) -> Any:
    """lm-eval's index of tasks: of the directory alone if it has all tasks, since indexing lm-eval's own is slow."""
    from lm_eval.tasks import TaskManager

    directory = None if params.include_path is None else params.include_path.expanduser().resolve()
    if directory is not None and not directory.is_dir():
        raise MissingError(f"no directory {directory}", "Set include_path= to a directory that holds task files.")
    known: list[str] = []
    for defaults in (False, True) if directory is not None else (True,):
        manager = TaskManager(include_path=None if directory is None else str(directory), include_defaults=defaults)
        known = list(manager.all_tasks)
        missing = [name for name in params.names if name not in known]
        if not missing:
            return manager
    near = near_matches(missing[0], known)
    remedy = suggestion(near, []) if near else "`lm-eval ls tasks` lists its own; include_path= adds your own files."
    raise MissingError(f"lm-eval has no task {missing[0]!r}", remedy)


def _names(names: Any) -> str:
    return ", ".join(sorted(set(names)))


RECORDS = (
    Metric(
        name="lm-eval",
        summary="Tasks of the Language Model Evaluation Harness, by name, or from local task files.",
        better="higher",
        unit="%",
        cost="the cost of the tasks; needs the extra lm-eval",
        formula="lm-eval's metric of each document of the tasks; the documents are the examples. Several tasks are "
        "averaged over all their documents; use one metric per task to see each",
        needs=frozenset({Need.CHECKPOINT}),
        require=require,
        params=LMEvalParams,
        score=score,
    ),
)

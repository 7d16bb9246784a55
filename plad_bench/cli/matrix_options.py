"""The options of `run` and `plan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import click

from plad_bench.cli.options import Number, boards_option, config_option, store_option
from plad_bench.contract.errors import UsageError
from plad_bench.contract.names import DEMO_BOARD, TRIAL_BOARD
from plad_bench.contract.protocol import checked, settings
from plad_bench.contract.renamed import SETTINGS
from plad_bench.plan.defaults import DEMO_METHODS, DEMO_TASK, PRETRAINED_TASK
from plad_bench.running.api import RERUN

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def matrix_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select what to compare and under which conditions."""
    options: list[Decorator] = [
        click.option("--methods", default=DEMO_METHODS, show_default=True, help="Method selectors; or all, or none."),
        click.option(
            "--controls",
            is_flag=True,
            help="Also run the controls, which train without the teacher's information (docs/methods.md). What "
            "a method gains without beating them need not come from its teacher.",
        ),
        click.option(
            "--checkpoint",
            "checkpoints",
            multiple=True,
            metavar="NAME=DIR",
            help="Also evaluate a model that was trained elsewhere, as the unranked row NAME. May be repeated.",
        ),
        click.option("--student", help="Student selectors.  [default: the task's]"),
        click.option("--teacher", help="Teacher selectors.  [default: the student's]"),
        click.option(
            "--task", help=f"Task selectors.  [default: {DEMO_TASK}; {PRETRAINED_TASK} for pretrained students]"
        ),
        click.option("--pairs", help="Pair-builder selectors.  [default: teacher-over-student]"),
        click.option("--metrics", help="Metric selectors; the first one ranks a new board.  [default: the task's]"),
        click.option("--seeds", type=click.IntRange(1), help="Number of seeds.  [default: the board's, or 1]"),
        *map(_setting, settings()),
        click.option(
            "--board",
            help=f"Board name.  [default: {DEMO_BOARD} for the demo; {TRIAL_BOARD} with --limit; otherwise the task "
            "and student names, such as tldr-llama-1b]",
        ),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per CPU slot."),
        click.option(
            "--rerun",
            type=click.Choice(RERUN),
            default="missing",
            show_default=True,
            help="Which runs to execute: missing, failed, stale (made by other code), or all.",
        ),
        click.option(
            "--force",
            is_flag=True,
            help="Run with settings that are otherwise refused: a pretrained model at a learning rate meant for "
            "random weights, or a base teacher that was not fine-tuned on the task.",
        ),
        boards_option,
        store_option,
        config_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def execution_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the execution options. `plan` accepts them too, so that a command line works for both."""
    options = [
        click.option("--launcher", default="local", show_default=True, help="Launcher selector."),
        click.option("--gpus", help="GPU indices, such as 0,1, or none to use the CPU.  [default: all GPUs]"),
        click.option("--workers", type=click.IntRange(1), help="Concurrent CPU stages.  [default: cores / threads]"),
        click.option(
            "--ranks",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Number of processes per training, each in its own slot (a GPU or a CPU slot).",
        ),
        click.option(
            "--shard",
            is_flag=True,
            help="Divide a trained model, its gradients and its optimiser state among the --ranks (FSDP), for models "
            "that do not fit one GPU.",
        ),
        click.option(
            "--teacher-gpus",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Number of slots of each stage in which vLLM runs the teacher, which shares its weights among them "
            "(tensor parallelism).",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Retries of a stage that was killed.",
        ),
        click.option(
            "--max-failures",
            type=click.IntRange(0),
            default=0,
            help="Stop scheduling new work after N failures (0: never).",
        ),
        click.option(
            "--max-cost",
            type=Number(0, min_open=True),
            help="Stop before requests to teachers and judges cost more than this, in the currency of their prices.",
        ),
        click.option("--timeout", type=Number(0), default=0, help="Stop a stage after N seconds (0: never)."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _setting(name: str) -> Decorator:
    """The option for a setting of the protocol, from its declaration."""
    setting = settings()[name]
    least, open_ = setting.get("minimum", setting.get("exclusiveMinimum")), "exclusiveMinimum" in setting
    types: dict[str, Callable[[], click.ParamType[Any]]] = {
        "integer": lambda: click.IntRange(least),
        "number": lambda: Number(least, min_open=open_),
        "string": lambda: _Pattern(name),
    }
    shown: dict[str, Any] = {"metavar": setting["metavar"]} if setting["metavar"] else {}
    if setting["type"] == "boolean":
        shown |= {"is_flag": True}
    elif "enum" in setting:
        shown |= {"type": click.Choice([*(["auto"] if setting["automatic"] else []), *setting["enum"]])}
    else:
        shown |= {"type": types[setting["type"]]()}
    text = " ".join(setting["description"].split())
    names = [f"--{known.replace('_', '-')}" for known in (name, *(old for old, new in SETTINGS.items() if new == name))]
    return click.option(*names, name, cls=_Setting, default=None, help=text, **shown)


class _Setting(click.Option):
    """An option whose help shows its first name only; the others are deprecated aliases."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


class _Pattern(click.ParamType[str]):
    """The type of a setting that must match a pattern."""

    name = "text"

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            checked({self.setting: value})
        except UsageError as error:
            self.fail(f"{error.message}. {error.remedy}", param, ctx)
        return value

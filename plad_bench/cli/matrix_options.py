"""The options of `run` and `plan`: what to compare, under which conditions, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import click

from plad_bench.cli.options import Number, boards_option, config_option, store_option
from plad_bench.contract.errors import UsageError
from plad_bench.contract.names import DEMO_BOARD, TRIAL_BOARD
from plad_bench.contract.protocol import checked, settings
from plad_bench.contract.renamed import SETTINGS
from plad_bench.plan.defaults import DEMO_TASK, PRETRAINED_TASK

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

DEMO_METHODS = "sft,seqkd,kd,plad"


def matrix_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to compare, and how; `run` and `plan` take the same."""
    options: list[Decorator] = [
        click.option("--methods", default=DEMO_METHODS, show_default=True, help="Selectors of methods, all, or none."),
        click.option(
            "--controls",
            is_flag=True,
            help="Run the controls, too: trainings without what the teacher says (docs/methods.md), which no row is "
            "worth more than unless it beats them.",
        ),
        click.option("--student", help="Selectors of students.  [default: the task's]"),
        click.option("--teacher", help="Selectors of teachers.  [default: the student's]"),
        click.option(
            "--task", help=f"Selectors of tasks.  [default: {DEMO_TASK}; {PRETRAINED_TASK} for pretrained students]"
        ),
        click.option("--pairs", help="Selectors of pair builders.  [default: teacher-over-student]"),
        click.option("--metrics", help="Selectors of metrics; the first ranks a new board.  [default: the task's]"),
        click.option("--seeds", type=click.IntRange(1), help="Number of seeds.  [default: the board's, else 1]"),
        *map(_setting, settings()),
        click.option(
            "--board",
            help=f"Name of the board.  [default: {DEMO_BOARD} for the demo; {TRIAL_BOARD} with --limit; else one named "
            "after the tasks and students, such as tldr-llama-1b]",
        ),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per CPU slot."),
        click.option(
            "--rerun",
            type=click.Choice(["missing", "failed", "stale", "all"]),
            default="missing",
            show_default=True,
            help="Which cells to run: those without a result (missing); those that failed; also those that rest on "
            "anything made by other code or packages, which is made again (stale); or all.",
        ),
        click.option(
            "--force",
            is_flag=True,
            help="Run settings that are refused otherwise: a pretrained model at a learning rate for random weights, "
            "or a base teacher that has not learnt the task.",
        ),
        boards_option,
        store_option,
        config_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def execution_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where and how patiently; `plan` takes them too, so that a command or a file serves both."""
    options = [
        click.option("--launcher", default="local", show_default=True, help="Selector of the launcher."),
        click.option("--gpus", help="GPU indices, such as 0,1; none to stay on the CPU.  [default: all there are]"),
        click.option("--workers", type=click.IntRange(1), help="Stages at a time on CPUs.  [default: cores / threads]"),
        click.option(
            "--ranks",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Slots (GPUs, or CPU slots) that share each training, a process in each.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Retries of a stage that was killed.",
        ),
        click.option(
            "--max-failures", type=click.IntRange(0), default=0, help="Start nothing new after this many; 0 goes on."
        ),
        click.option(
            "--max-cost",
            type=Number(0, min_open=True),
            help="Stop before teachers and judges cost more than this, in the currency of their prices.",
        ),
        click.option("--timeout", type=Number(0), default=0, help="Stop a stage after this many seconds; 0 never."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _setting(name: str) -> Decorator:
    """The option for a setting of the protocol, as its declaration has it."""
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
    """An option whose help shows the first of its names: the others are older ones, which still work."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


class _Pattern(click.ParamType[str]):
    """A setting whose text has to match the pattern of its declaration."""

    name = "text"

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return checked({self.setting: value})[self.setting]
        except UsageError as error:
            self.fail(f"{error.message}. {error.remedy}", param, ctx)

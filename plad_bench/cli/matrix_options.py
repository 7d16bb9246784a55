"""The options of `run` and `plan`: what to compare, under which conditions, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from plad_bench.cli.options import boards_option, config_option, store_option
from plad_bench.plan.names import DEMO_BOARD, TRIAL_BOARD

DEMO_METHODS = "sft,seqkd,kd,plad"


def matrix_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to compare, and how; `run` and `plan` take the same."""
    options = [
        click.option("--methods", default=DEMO_METHODS, show_default=True, help="Selectors of methods, all, or none."),
        click.option("--student", default="", help="Selectors of students.  [default: the task's]"),
        click.option("--teacher", default="", help="Selectors of teachers.  [default: the student's]"),
        click.option("--task", default="demo", show_default=True, help="Selectors of tasks."),
        click.option("--pairs", default="", help="Selectors of pair builders.  [default: teacher-over-student]"),
        click.option(
            "--metrics", default="", help="Selectors of metrics; the first ranks a new board.  [default: the task's]"
        ),
        click.option("--seeds", type=click.IntRange(1), help="Number of seeds.  [default: the board's, else 1]"),
        click.option("--steps", type=click.IntRange(1), help="Optimiser steps of every method.  [default: the task's]"),
        click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate all methods share."),
        click.option("--batch", type=click.IntRange(1), help="Prompts per optimiser step."),
        click.option("--warmup-steps", type=click.IntRange(0), help="Steps of the common warm start."),
        click.option("--warmup-lr", type=click.FloatRange(0, min_open=True), help="Its peak learning rate."),
        click.option("--max-new-tokens", type=click.IntRange(1), help="Length limit of every generated response."),
        click.option(
            "--teach-temperature", type=click.FloatRange(0), help="Teacher's sampling temperature; 0 is greedy."
        ),
        click.option("--sample-temperature", type=click.FloatRange(0), help="Frozen student's sampling temperature."),
        click.option("--top-k", type=click.IntRange(1), help="Top-k of both, where they sample."),
        click.option("--samples", type=click.IntRange(1), help="Responses to a training prompt of what samples."),
        click.option("--split", type=click.Choice(["test", "validation"]), help="Split to evaluate on."),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bf16"]),
            help="Arithmetic of models.  [default: the board's, else bf16 on GPUs and float32 on CPUs]",
        ),
        click.option(
            "--compile",
            is_flag=True,
            default=None,
            help="Compile token losses: for long runs with large vocabularies; needs a C++ compiler on CPUs.",
        ),
        click.option("--lora", type=click.IntRange(1), help="Train students through adapters of this rank."),
        click.option(
            "--signals",
            metavar="live|dense|top-K",
            help="Teacher distributions over fixed text: computed at every step; once, whole; or once, the K likeliest "
            "tokens and the tail.  [default: live]",
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", "transformers", "continuous", "vllm"]),
            help="What generates text outside of training; auto is vllm where that can run, continuous is transformers "
            "with continuous batching of greedy text.  "
            "[default: the board's, else transformers]",
        ),
        click.option(
            "--limit", type=click.IntRange(1), help="Use this many prompts of each split; records become trials."
        ),
        click.option("--board", help=f"Name of the board.  [default: {DEMO_BOARD}; {TRIAL_BOARD} with --limit]"),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per CPU slot."),
        click.option(
            "--rerun",
            type=click.Choice(["missing", "failed", "stale", "all"]),
            default="missing",
            show_default=True,
            help="Cells to run: without a result; that failed; also made by other code; every one.",
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
        click.option(
            "--gpus", default="", help="GPU indices, such as 0,1; none to stay on the CPU.  [default: all there are]"
        ),
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
            type=click.FloatRange(0, min_open=True),
            help="Stop before teachers and judges cost more than this, in the currency of their prices.",
        ),
        click.option(
            "--timeout", type=click.FloatRange(0), default=0, help="Stop a stage after this many seconds; 0 never."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function

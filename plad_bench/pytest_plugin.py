"""Fixtures for the tests of plugins. pytest loads this module wherever plad-bench is installed (docs/add-a-method.md).

What a fixture needs is imported when a test asks for it: nobody else's tests wait for plad-bench.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plad_bench.contract.components import Component, Task
    from plad_bench.leaderboard.board import Board
    from plad_bench.testing import TinyModels


@pytest.fixture
def plad_bench_check() -> Callable[[Component | ModuleType], None]:
    """A function: fails where `check-plugin` would, with remedies. It takes a component, or the module of a plugin.

    For example:

        def test_it_keeps_every_claim(plad_bench_check):
            plad_bench_check(my_plugin)
    """

    def check(what: Component | ModuleType) -> None:
        from plad_bench.conformance import broken
        from plad_bench.conformance.plugins import broken_module

        problems = broken_module(what) if isinstance(what, ModuleType) else broken(what)
        if problems:
            pytest.fail("\n".join(problems), pytrace=False)

    return check


@pytest.fixture
def tiny_models() -> TinyModels:
    """A student and a teacher of a few thousand random weights: `plad_bench.testing.TinyModels`.

    For example:

        def test_it_has_a_gradient(tiny_models):
            student, teacher, labels = tiny_models.batch([("red door", "The door is red.")])
            token_loss(METHOD, student, teacher, labels).backward()
    """
    from plad_bench.testing import tiny_models

    return tiny_models()


@pytest.fixture
def tiny_task() -> Task:
    """The task of `throwaway_board`: 64 short prompts, each with two references."""
    from plad_bench.tiny import TASK

    return TASK


@pytest.fixture
def throwaway_board(tmp_path_factory: pytest.TempPathFactory, _throwaway_store: Path) -> Callable[..., Board]:
    """A function: executes `plad-bench run` with a plugin on the tiny task, in temporary directories.

    It takes the plugin's module and options of `run` by keyword, and returns the board (`plad_bench.BoardView`). The
    models and what else runs have in common are made once for all tests of a session.

    For example:

        def test_it_gets_a_row(throwaway_board):
            board = throwaway_board(my_plugin, methods="my-method")
            assert [row.method for row in board.groups[0].rows] == ["my-method"]
    """

    def run(plugin: ModuleType, **options: Any) -> Board:
        from plad_bench import throwaway

        return throwaway.run(plugin, _throwaway_store, tmp_path_factory.mktemp("boards"), options)

    return run


@pytest.fixture(scope="session")
def _throwaway_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")

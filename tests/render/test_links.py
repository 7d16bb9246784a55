"""Where a page leads: to the docs, to papers, to more responses, and to the days of its records."""

import json

import numpy as np
import pytest
from synthetic import page, put, record

from plad_bench.contract.errors import UsageError
from plad_bench.leaderboard.loading import load
from plad_bench.render import markdown


def linked(tmp_path, docs="../../docs", **changes):
    """The page of a board with one method."""
    data, scores = record("kd", 0, selector="kd[x=1]", columns={"m": (np.arange(9.0), "higher", "")})
    data["method"].update(changes)
    put(tmp_path, data, scores)
    (tmp_path / "board.toml").write_text(f"docs = {json.dumps(docs)}\n")
    return page(tmp_path)


def test_names_lead_to_the_docs_if_the_board_says_where_they_are(tmp_path):
    shown = linked(tmp_path)
    assert "| [`kd[x=1]`](../../docs/methods.md#kd) |" in shown
    assert "Definitions: [`m`](../../docs/metrics.md#m)." in shown


@pytest.mark.parametrize(
    ("docs", "changes", "shown"),
    [
        ("", {"paper": "KD, arXiv:1503.02531"}, "| [`kd[x=1]`](https://arxiv.org/abs/1503.02531) |"),
        (
            "../../docs",
            {"plugin": "mine 1", "paper": "arXiv:2406.02886"},
            "| [`kd[x=1]`](https://arxiv.org/abs/2406.02886) |",
        ),
        ("../../docs", {"plugin": "mine 1", "paper": "[x](javascript:alert\\(1\\))"}, "| `kd[x=1]` |"),
        ("", {"paper": "no paper"}, "| `kd[x=1]` |"),
    ],
)
def test_without_docs_a_method_leads_to_its_paper(tmp_path, docs, changes, shown):
    assert shown in linked(tmp_path, docs=docs, **changes)


@pytest.mark.parametrize("docs", ["javascript:alert(1)", "../../docs) <b>", '" onclick="x'])
def test_docs_are_a_place_and_nothing_else(tmp_path, docs):
    with pytest.raises(UsageError, match=r"board.toml: docs"):
        linked(tmp_path, docs=docs)


def test_a_page_says_where_to_find_more_responses(tmp_path):
    shown = linked(tmp_path)
    assert "`plad-bench show " in shown
    assert "/demo.tiny/kd-x=1.s0 --samples 10`, on a machine that has the store of the run." in shown
    assert "No samples: a board has them only of tasks whose text may be redistributed." in shown


def test_a_page_says_on_which_days_its_records_were_written(tmp_path):
    for seed, day in enumerate(("2026-11-02", "2026-10-31", None)):
        data, scores = record("kd", seed=seed, columns={"m": (np.linspace(0, seed + 1, 8), "higher", "")})
        data["provenance"] |= {"date": day} if day else {}
        put(tmp_path / "b", data, scores)
    board = load(tmp_path / "b")
    assert board.dates == ("2026-10-31", "2026-11-02")
    assert "The records are of 2026-10-31 to 2026-11-02 (UTC)." in markdown.render(board)

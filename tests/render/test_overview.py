"""Several tasks, teachers and students on one board: side by side, over tasks, and by size."""

from __future__ import annotations

import re

import numpy as np
import pytest
from synthetic import component, put, record

from plad_bench.leaderboard.loading import load
from plad_bench.leaderboard.sizes import series
from plad_bench.render import overview, plots
from plad_bench.render.pieces import plain
from plad_bench.render.write import render_board

STUDENTS = {"big": 9e6, "tiny": 1.5e5, "mid": 9e5}
MEANS = {"teacher": 9.0, "sft-init": 1.0, "kd": 3.0, "plad": 2.0}


def board(directory, *, tasks=("demo",), teachers=("t",), students=STUDENTS, sizes=None, metric=None):
    """Methods whose means grow with the student's size; a teacher without a size, of `sizes`, is behind an endpoint."""
    rng = np.random.default_rng(4)
    known = {"t": 1e7, "u": 1e8} if sizes is None else sizes
    for task in tasks:
        for teacher in teachers:
            for student, size in students.items():
                for row, mean in MEANS.items():
                    for seed in range(1 if row == "teacher" else 3):
                        shift = 0 if row == "teacher" else np.log10(size) - 5 + (teacher == "u")
                        parameters = known.get(teacher) if row == "teacher" else size
                        data, scores = record(
                            row,
                            seed,
                            folder=f"{task}/{student}+{teacher}",
                            params={},
                            columns={(metric or {}).get(task, "m"): (rng.normal(mean + shift, 0.05, 30), "higher", "")},
                            counts={"generate.parameters": parameters} if parameters else {},
                            task={**component(task), "licence": "x", "redistributable": False},
                            teacher=component(teacher),
                            student=component(student),
                        )
                        put(directory, data, scores)
    (directory / "board.toml").write_text("seeds_asked = 3\n")
    return load(directory)


def tables(found):
    return {
        plain(s.title): (
            [plain(c.line) for c in s.table.columns],
            [[plain(e.line) for e in row] for row in s.table.rows],
        )
        for s in overview.sections(found)
    }


def test_a_board_with_one_setting_has_no_overview(tmp_path):
    found = board(tmp_path, students={"tiny": 1e5})
    assert (tables(found), overview.size_series(found)) == ({}, [])
    assert "size-" not in str(list(render_board(tmp_path)))


def test_settings_of_a_task_are_side_by_side_in_the_order_of_their_sizes(tmp_path):
    (head, rows), *others = tables(board(tmp_path)).values()
    assert others == []
    assert head == ["Method", "student tiny (150 k)", "student mid (900 k)", "student big (9 M)"]
    assert [row[0] for row in rows] == ["teacher", "sft-init", "kd", "plad"]
    assert rows[2][3].startswith("4.9") or rows[2][3].startswith("5.0")
    assert rows[2][3].endswith("(1 ★)")
    assert rows[3][3].endswith("(2)")


def test_tasks_are_side_by_side_and_their_ranks_averaged(tmp_path):
    found = board(tmp_path, tasks=("demo", "e2e"), students={"tiny": 1e5}, metric={"e2e": "n"})
    (title, (head, _)), (across, (columns, rows)) = tables(found).items()
    assert (title, head) == ("All tasks", ["Method", "task demo: m ↑", "task e2e: n ↑"])
    assert across == "Across tasks: teacher t, student tiny, 3 seeds"
    assert columns[:4] == ["Method", "Mean rank", "demo", "e2e"]
    assert [row[:4] for row in rows] == [["kd", "1.0", "1", "1"], ["plad", "2.0", "2", "2"]]


def test_each_teacher_and_each_student_has_a_series_of_sizes(tmp_path):
    found = series(board(tmp_path, teachers=("t", "u")).groups)
    assert [(of.varied, of.other) for of in found] == [
        *(("student", teacher) for teacher in ("t", "u")),
        *(("teacher", student) for student in ("big", "mid", "tiny")),
    ]
    assert [size for size, _ in found[0].groups] == sorted(STUDENTS.values())
    assert [size for size, _ in found[2].groups] == [1e7, 1e8]


def test_a_model_of_unknown_size_is_left_out_and_named(tmp_path):
    found = board(tmp_path, teachers=("t", "u", "openai"), students={"tiny": 1e5})
    (of_teachers,) = series(found.groups)
    assert of_teachers.unknown == ("openai",)
    assert "size unknown: openai" in plots.sizes(of_teachers)
    (section,) = overview.sections(found)
    assert "No plot has the teacher openai, whose size is unknown." in plain(section.note)
    assert series(board(tmp_path / "b", teachers=("t", "openai"), students={"tiny": 1e5}).groups) == []


def test_a_line_of_the_plot_goes_through_the_means_of_its_method(tmp_path):
    drawn = plots.sizes(overview.size_series(board(tmp_path))[0])
    lines = [
        [tuple(map(float, p.split(","))) for p in points.split()] for points in re.findall(r'points="([^"]+)"', drawn)
    ]
    assert [len(points) for points in lines] == [3] * len(MEANS)
    kd = lines[0]
    assert [x for x, _ in kd] == sorted(x for x, _ in kd)
    assert kd[0][1] > kd[1][1] > kd[2][1]  # higher means are further up
    for name in MEANS:
        assert f">{name}<" in drawn


@pytest.mark.parametrize("page", ["README.md", "index.html"])
def test_the_page_begins_with_the_overview_and_its_plots(tmp_path, page):
    board(tmp_path)
    files = render_board(tmp_path)
    text = files[tmp_path / page].decode()
    assert text.index("All settings of") < text.index("by size of the student") < text.index("significantly better")
    assert tmp_path / "plots" / "size-1.svg" in files

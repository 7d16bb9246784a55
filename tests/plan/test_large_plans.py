"""Large plans: what is looked up or computed once however many cells need it."""

from __future__ import annotations

import tiny

from plad_bench.contract import params
from plad_bench.plan import matrix, spec


def planned(seeds, **more):
    run = spec.build(tiny.registry(), task="demo", methods="sft,seqkd,kd", metrics="rouge-l", seeds=seeds, **more)
    return matrix.cells(run, tiny.registry())


def test_a_local_model_is_read_once_however_many_cells_name_it(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text(f"{name} {tmp_path}")
    params._file_hash.cache_clear()
    cells = planned(50, student=f"hf[path={tmp_path / 'model'}]", teacher="small")
    keys = {stage.key for cell in cells for stage in cell.stages}
    assert len(cells) > 150 < len(keys)
    assert params._file_hash.cache_info().misses == 2


def test_a_cell_that_nothing_changes_keeps_its_stages():
    (cell, *_) = planned(1)
    (again,) = matrix.reconsidered([cell], lambda key: None)
    assert again is cell
    assert cell.but(skip="no") is not cell


def test_the_seeds_of_a_row_share_its_reasons(monkeypatch, tmp_path):
    (tmp_path / "said.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    asked = []
    reason = matrix.skip_reason
    monkeypatch.setattr(matrix, "skip_reason", lambda cell: asked.append(cell.row) or reason(cell))
    found = planned(5, teacher=f"recorded[path={tmp_path / 'said.jsonl'}]")
    assert len(found) > 15
    assert sorted(asked) == ["kd", "seqkd", "sft", "sft-init", "student", "teacher"]
    assert {(cell.row, cell.skip) for cell in found} == {(cell.row, reason(cell)) for cell in found}
    assert {cell.row for cell in found if cell.skip} == {"kd"}


def test_each_stage_is_hashed_once(monkeypatch):
    from plad_bench.plan import stage

    hashed = []
    digest = stage.digest
    monkeypatch.setattr(stage, "digest", lambda document: hashed.append(document) or digest(document))
    cells = planned(5)
    for _ in range(3):
        for cell in matrix.reconsidered(cells, lambda key: None):
            list(cell.stages)
    documents = [digest(document) for document in hashed]
    assert len(documents) < 1.5 * len(set(documents))

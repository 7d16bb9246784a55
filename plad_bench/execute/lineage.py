"""The lineage of an artifact: which versions of code and packages made it and its ancestors.

A lineage is a list of entries {code, packages, stages}, one per version, with the stages that it made. It is part of
the artifact's manifest, so it still holds when ancestors are deleted or recomputed. An entry with `kept` covers
artifacts that no run recomputes: those that ship with a task, and responses of endpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from plad_bench.execute import provenance
from plad_bench.execute.store import Artifact
from plad_bench.plan.stage import stage_name

Lineage: TypeAlias = list[dict[str, Any]]
FindArtifact: TypeAlias = Callable[[str], Artifact | None]


def of(artifact: Artifact, find: FindArtifact) -> Lineage:
    """The lineage of an artifact. An older version of plad-bench stored none; then it comes from the inputs by key."""
    made = artifact.manifest.get("provenance", {})
    if "lineage" in made:
        known: Lineage = made["lineage"]
    else:
        document = artifact.manifest.get("document", {})
        parents = [found for key in document.get("inputs", {}).values() if (found := find(key))]
        known = extended(made, document, {p.key: p for p in parents}, find) if "code" in made else []
    return joined([{**entry, "kept": True} for entry in known]) if artifact.shipped else known


def extended(
    made: Mapping[str, Any], document: Mapping[str, Any], parents: Mapping[str, Artifact], find: FindArtifact
) -> Lineage:
    """The lineage of a document's stage. `made` has `code` and `packages`; `parents` are the inputs by key."""
    own: dict[str, Any] = {name: made.get(name) for name in ("code", "packages")}
    own["stages"] = [_part(document, parents)]
    if document.get("operation") == "ask":
        own["kept"] = True
    return joined([own], *(of(parent, find) for parent in parents.values()))


def joined(*lineages: Sequence[Mapping[str, Any]]) -> Lineage:
    """Join lineages: one sorted entry per version. A stage that is older in one lineage is older in the result."""
    entries = [entry for lineage in lineages for entry in lineage]
    older = {(_version(entry), stage) for entry in entries if entry.get("older") for stage in entry["stages"]}
    by_version: dict[tuple[str, bool], set[str]] = {}
    for entry in entries:
        for stage in entry["stages"]:
            version = _version(entry)
            by_version.setdefault((version, (version, stage) in older), set()).add(stage)
    return [
        {**json.loads(version), **({"older": True} if old else {}), "stages": sorted(stages)}
        for (version, old), stages in sorted(by_version.items())
    ]


def _version(entry: Mapping[str, Any]) -> str:
    return json.dumps({name: v for name, v in entry.items() if name not in {"stages", "older"}}, sort_keys=True)


def is_today(entry: Mapping[str, Any]) -> bool:
    """Whether the present code and packages made an entry."""
    return bool(entry.get("code") == provenance.code_hash() and entry.get("packages") == provenance.packages())


def stale(lineage: Iterable[Mapping[str, Any]]) -> list[str]:
    """The stages that other code or packages made and that a run can recompute."""
    return sorted({part for entry in lineage if not (is_today(entry) or entry.get("kept")) for part in entry["stages"]})


def _part(document: Mapping[str, Any], parents: Mapping[str, Artifact]) -> str:
    """The display name of a stage in a lineage: `teacher`, `generate with sft-init`, `score rouge-l`."""
    stage = stage_name(document)
    if stage == "generate":
        maker = parents.get(document.get("inputs", {}).get("model", ""))
        return f"generate with {maker.stage if maker else 'teacher'}"
    return f"score {document['spec']['metric']['name']}" if stage == "score" else stage

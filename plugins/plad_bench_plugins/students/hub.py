"""Students in Hugging Face format: any model, and short names for published ones."""

from __future__ import annotations

from plad_bench import HubModel, Student
from plad_bench_plugins.students._published import PUBLISHED, CatalogueEntry
from plad_bench_plugins.students._sources import HFParams, PrunedParams, RevisionParams, hub_model


def _alias(name: str, published: CatalogueEntry) -> Student:
    def model(params: RevisionParams) -> HubModel:
        return hub_model(published.id, params.revision, params.prompts(), published.parameters)

    return Student(
        name=name,
        summary=f"{published.id} on the hub.",
        params=RevisionParams,
        model=model,
        teacher=published.teacher,
    )


RECORDS = (
    Student(
        name="hf",
        summary="Any causal or encoder-decoder model in Hugging Face format, by hub id or directory.",
        params=HFParams,
        model=HFParams.model,
    ),
    Student(
        name="pruned",
        summary="Any causal model pruned to some of its layers and MLP neurons, for families without a smaller member.",
        params=PrunedParams,
        model=PrunedParams.model,
    ),
    *(_alias(name, published) for name, published in PUBLISHED.items() if published.teacher),
)

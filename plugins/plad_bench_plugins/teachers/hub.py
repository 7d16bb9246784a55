"""Teachers in Hugging Face format: any model, and short names for published ones."""

from __future__ import annotations

from plad_bench import HubModel, Teacher
from plad_bench_plugins.students._published import PUBLISHED, CatalogueEntry
from plad_bench_plugins.students._sources import HFParams, RevisionParams, hub_model
from plad_bench_plugins.teachers._local import EVERYTHING, TrainingParams


class HFTeacherParams(HFParams, TrainingParams):
    """Any model in Hugging Face format, fine-tuned or not."""


class AliasTeacherParams(RevisionParams, TrainingParams):
    """A published model, fine-tuned or not."""


def _alias(name: str, published: CatalogueEntry) -> Teacher:
    def model(params: AliasTeacherParams) -> HubModel:
        return hub_model(published.id, params.revision, params.prompts(), published.parameters)

    return Teacher(
        name=name,
        summary=f"{published.id} on the hub.",
        params=AliasTeacherParams,
        provides=EVERYTHING,
        model=model,
        training=AliasTeacherParams.training,
    )


RECORDS = (
    Teacher(
        name="hf",
        summary="Any causal or encoder-decoder model in Hugging Face format, by hub id or directory.",
        params=HFTeacherParams,
        provides=EVERYTHING,
        model=HFTeacherParams.model,
        training=HFTeacherParams.training,
    ),
    *(_alias(name, published) for name, published in PUBLISHED.items()),
)

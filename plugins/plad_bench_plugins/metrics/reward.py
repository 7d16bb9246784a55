"""The reward of a sequence-classification model. As a scorer of win-teacher it gives a reward-model win rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plad_bench import Metric, MissingError, Scored, StageError, Tools, param
from plad_bench.contract import hub
from plad_bench_plugins.students._sources import PlaceParams


class RewardParams(PlaceParams):
    """A sequence classifier, and its output that serves as reward."""

    label: int | None = param(None, ge=0, source="ours")
    """For a classifier with several labels: the number of the good label, whose log-odds are the reward."""


def require(params: RewardParams) -> None:
    """Check that the model is available, and is a sequence classifier.

    Raises:
        MissingError: if it is not.
    """
    model = params.model()
    what = f"reward model {Path(model.id).name if params.path else model.id}"
    config = Path(model.id) / "config.json"
    if params.path is None:
        from huggingface_hub import hf_hub_download

        with hub.asking(what, model.id, model.revision):
            config = Path(hf_hub_download(model.id, "config.json", revision=hub.pinned(model.id, model.revision)))
    else:
        hub.check_weights(Path(model.id), what)
    kinds = hub.settings(config, what).get("architectures") or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise MissingError(
            f"{what} is not a sequence classifier but {', '.join(kinds) or 'names no architecture'}",
            "Choose a reward model, or another model whose architecture ends in ForSequenceClassification.",
        )


def score(examples: Sequence[Scored], params: RewardParams, tools: Tools) -> list[float]:
    """The classifier's only logit, or the log-odds of the good label, for each response to its prompt."""
    from plad_bench.learn.classifiers import Classifier

    model = params.model()
    classifier = Classifier(model.id, model.revision, tools.device, tools.counts, memory_policy=tools.memory_policy)
    labels = classifier.model.config.id2label
    if len(labels) > 1 and (params.label is None or params.label >= len(labels)):
        names = ", ".join(f"{number} {name}" for number, name in sorted(labels.items()))
        raise StageError(f"the reward model has {len(labels)} labels: {names}", "Set the good one: label=.")
    logits = classifier.logits([(e.prompt, e.response) for e in examples], tools.progress)
    return [_reward(row, params.label) for row in logits]


def _reward(logits: list[float], label: int | None) -> float:
    import numpy as np

    if len(logits) == 1 or label is None:
        return logits[0]
    return logits[label] - float(np.logaddexp.reduce([z for i, z in enumerate(logits) if i != label]))


RECORDS = (
    Metric(
        name="reward",
        summary="Reward of a sequence-classification model; win-teacher[scorer=reward[...]] is its win rate.",
        better="higher",
        cost="one forward pass of the reward model over the responses",
        formula="the model's logit for (prompt, response), by its chat template or as a pair of texts; with several "
        "labels the log-odds of label=",
        hub=lambda params: params.model() if params.path is None else None,
        require=require,
        params=RewardParams,
        score=score,
    ),
)

"""Values that records use: teacher access, sources of training text, and inputs of a metric."""

from __future__ import annotations

from enum import StrEnum

BASELINES = ("teacher", "student", "sft-init")
"""The rows of a board that are not methods and are never ranked."""
DIVERSITY = "sample-diversity"
"""The metric of all samples of a prompt together in sampled evaluation, unless the run names others."""
OUTSIDE = "checkpoint"
"""Method name in the record of a model that was trained elsewhere; never ranked either."""


class Access(StrEnum):
    """What a teacher provides or a method requires, in ascending order: each kind includes those before it."""

    NONE = "none"
    TEXT = "text"
    TOKEN_LOGPROBS = "token log-probs"  # noqa: S105
    TOP_K = "top-k"
    LOGITS = "logits"

    @property
    def tier(self) -> int:
        """Position in the order none < text < token log-probs < top-k < logits."""
        return list(Access).index(self)


class Text(StrEnum):
    """The source of the sequences that a loss is averaged over."""

    REFERENCE = "reference"
    """The task's references."""
    TEACHER = "teacher"
    """The teacher's responses."""
    SAMPLE = "sample"
    """Off-policy samples: responses sampled once from the student after SFT initialisation."""
    STUDENT = "student"
    """On-policy text: responses sampled from the student's current weights."""
    REPLAY = "replay"
    """The replay buffer: responses sampled from the student at earlier steps, with their prompts."""
    SHUFFLED = "shuffled"
    """The teacher's responses, each paired with another prompt."""


STAGE_OF = {Text.TEACHER: "teach", Text.SAMPLE: "sample", Text.SHUFFLED: "teach"}
"""Source of text that a stage generates before training -> that stage, which is also the role of its artifact."""
FIXED = (Text.REFERENCE, *STAGE_OF)
"""Sources of text that exist before training."""


class Need(StrEnum):
    """An input of a metric beyond the prompt and the response."""

    TEACHER = "teacher"
    """The teacher's responses to the same prompts."""
    CHECKPOINT = "checkpoint"
    """The evaluated model."""
    TEACHER_LOGITS = "teacher-logits"
    """The teacher's model; the metric is absent where the teacher provides only text."""
    REFERENCES = "references"
    """The task's references; the metric is absent where the task has none."""
    SCORES = "scores"
    """The values of the metric named by the parameter `scorer`, for the same responses."""

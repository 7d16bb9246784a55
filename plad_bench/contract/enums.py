"""What a teacher gives, where text comes from, and what a metric needs: the words that records use."""

from __future__ import annotations

from enum import StrEnum

BASELINES = ("teacher", "student", "sft-init")
"""Rows that every board has beside its methods, and that are never ranked."""


class Access(StrEnum):
    """What a teacher gives, or a method asks of it; later tiers give more."""

    NONE = "none"
    TEXT = "text"
    SCORER = "text + scorer"
    TOKEN_LOGPROBS = "token log-probs"  # noqa: S105
    TOP_K = "top-k"
    LOGITS = "logits"
    HIDDEN = "hidden states"

    @property
    def tier(self) -> int:
        """Position in the order none < text < ... < hidden states."""
        return list(Access).index(self)


class Text(StrEnum):
    """Where the sequences that a loss is averaged over come from."""

    REFERENCE = "reference"
    """The task's references."""
    TEACHER = "teacher"
    """The teacher's responses."""
    SAMPLE = "sample"
    """Responses sampled once from the frozen initialised student."""
    STUDENT = "student"
    """Responses sampled from the student as it is at this step."""
    REPLAY = "replay"
    """Responses that were sampled from the student at an earlier step, with their prompts."""


class Need(StrEnum):
    """What a metric needs beyond prompt, references and response."""

    TEACHER = "teacher"
    """The teacher's responses to the same prompts."""
    CHECKPOINT = "checkpoint"
    """The evaluated model."""
    TEACHER_LOGITS = "teacher-logits"
    """The teacher's model; where a teacher has none to give, the cell does without the metric."""
    REFERENCES = "references"
    """The task's references; where a task has none, the cell does without the metric."""
    SCORES = "scores"
    """The values of the metric that its parameter `scorer` names, for the same responses."""

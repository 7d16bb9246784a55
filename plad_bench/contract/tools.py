"""What a metric may ask of the harness while it scores: other metrics, models on the stage's device, room for files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plad_bench.contract.renamed import former_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from plad_bench.contract.examples import Response, Scored
    from plad_bench.contract.memory_policy import MemoryPolicy
    from plad_bench.contract.money import Budget

Scorer: TypeAlias = "Callable[[Sequence[Scored]], Sequence[float]]"
"""The values of a metric for any examples, oriented so that higher is better."""
Scorers: TypeAlias = Callable[[str], Scorer]
"""Selector of a metric -> its scoring function."""


class LanguageModel:
    """A model with its tokenizer. Texts are (prompt, response); token ids that this tokenizer made are kept."""

    model: Any
    """In eval mode, on the stage's device."""
    tokenizer: Any

    def measure(
        self,
        texts: Sequence[tuple[str, Response]],
        function: Callable[..., Tensor],
        beside: LanguageModel | None = None,
    ) -> list[NDArray[np.float64]]:
        """K numbers for each response token of each text, its end token included: an array [T, K] per text.

        Args:
            texts: prompts with responses.
            function: (logits [N, V], labels [N]) -> [N, K], at the N response tokens of a batch, without gradient.
            beside: another model, whose logits [N, V] are then the function's second argument.

        Raises:
            UnmeasuredError: if the two models have different tokenizers.
        """
        raise NotImplementedError

    def logprobs(self, texts: Sequence[tuple[str, Response]]) -> list[NDArray[np.float64]]:
        """Log-probability of each response token, in nats: an array [T] per text."""
        raise NotImplementedError

    def sample(self, prompts: Sequence[str], *, temperature: float, top_k: int = 0, seed: int = 0) -> list[Response]:
        """A response to each prompt, of at most the protocol's length. A temperature of 0 decodes greedily."""
        raise NotImplementedError


@former_names(journal="response_cache", purse="budget", thrift="memory_policy")
class Tools:
    """What a metric's function is handed beside the examples. Calling it is `Scorers`."""

    device: str
    """Where models go: cpu or cuda:0."""
    kept: Path
    """A directory whose files stay in the store beside the values."""
    partial: Path
    """A directory that survives a kill, until the values are there."""
    response_cache: Path
    """Survives a kill, and stays with the values. What is written here, a line for each answered request, need not be
    asked again."""
    counts: dict[str, float]
    """Counts for the manifest: what was dropped, cut, asked."""
    budget: Budget
    """What may be spent on requests."""
    memory_policy: MemoryPolicy
    """How the stage spares its device's memory."""

    def __call__(self, selector: str) -> Scorer:
        """The scoring function of a metric."""
        raise NotImplementedError

    def checkpoint(self) -> LanguageModel:
        """The evaluated model. Needs `Need.CHECKPOINT`."""
        raise NotImplementedError

    def teacher(self) -> LanguageModel:
        """The teacher's model. Needs `Need.TEACHER_LOGITS`."""
        raise NotImplementedError

    def response(self, example: Scored) -> Response:
        """The evaluated response as it was generated."""
        raise NotImplementedError

    def teacher_response(self, example: Scored) -> Response:
        """The teacher's response as it was generated. Needs `Need.TEACHER`."""
        raise NotImplementedError

    def scores(self) -> list[float]:
        """What the metric named by the parameter `scorer` gives for the same examples. Needs `Need.SCORES`."""
        raise NotImplementedError

    def progress(self, done: int, total: int) -> None:
        """Tell whoever watches."""
        raise NotImplementedError

"""The services that metrics can use: other metrics, models on the stage's device, directories for files."""

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
"""A metric's values for given examples, with the sign chosen so that higher is better."""
Scorers: TypeAlias = Callable[[str], Scorer]
"""Selector of a metric -> its scoring function."""


class LanguageModel:
    """A model with its tokenizer. Texts are (prompt, response) pairs; token ids of this tokenizer are reused."""

    model: Any
    """The model in eval mode, on the stage's device."""
    tokenizer: Any

    def measure(
        self,
        texts: Sequence[tuple[str, Response]],
        function: Callable[..., Tensor],
        beside: LanguageModel | None = None,
    ) -> list[NDArray[np.float64]]:
        """Compute K numbers per response token, including the end token: an array [T, K] per text.

        Args:
            texts: prompts with responses.
            function: (logits [N, V], labels [N]) -> [N, K], for the N response tokens of a batch, without gradient.
            beside: another model, whose logits [N, V] become the function's second argument.

        Raises:
            UnmeasuredError: if the two models have different tokenizers.
        """
        raise NotImplementedError

    def logprobs(self, texts: Sequence[tuple[str, Response]]) -> list[NDArray[np.float64]]:
        """Log-probability of each response token, in nats: an array [T] per text."""
        raise NotImplementedError

    def sample(self, prompts: Sequence[str], *, temperature: float, top_k: int = 0, seed: int = 0) -> list[Response]:
        """Generate a response to each prompt, up to the protocol's length limit; temperature 0 is greedy."""
        raise NotImplementedError


@former_names(journal="response_cache", purse="budget", thrift="memory_policy")
class Tools:
    """The services that a metric's function receives. An instance is callable as `Scorers`."""

    device: str
    """Device of models: cpu or cuda:0."""
    kept: Path
    """A directory whose files are stored with the values."""
    partial: Path
    """A directory that survives a killed process, until the values are stored."""
    response_cache: Path
    """Response cache: a file with one line per answered request, which survives a killed process and is stored with the
    values. Cached requests are not sent again."""
    counts: dict[str, float]
    """Counts for the manifest, such as dropped and truncated responses."""
    budget: Budget
    """Budget for requests."""
    memory_policy: MemoryPolicy
    """Memory settings of the stage."""

    def __call__(self, selector: str) -> Scorer:
        """The scoring function of a metric, given its selector."""
        raise NotImplementedError

    def checkpoint(self) -> LanguageModel:
        """The evaluated model. Needs `Need.CHECKPOINT`."""
        raise NotImplementedError

    def teacher(self) -> LanguageModel:
        """The teacher's model. Needs `Need.TEACHER_LOGITS`."""
        raise NotImplementedError

    def response(self, example: Scored) -> Response:
        """The evaluated response, with its token ids."""
        raise NotImplementedError

    def teacher_response(self, example: Scored) -> Response:
        """The teacher's response, with its token ids. Needs `Need.TEACHER`."""
        raise NotImplementedError

    def scores(self) -> list[float]:
        """The values of the metric given by the parameter `scorer`, for the same examples. Needs `Need.SCORES`."""
        raise NotImplementedError

    def progress(self, done: int, total: int) -> None:
        """Report progress."""
        raise NotImplementedError

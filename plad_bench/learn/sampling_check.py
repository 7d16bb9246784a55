"""Checks that sampled text was drawn from the model's own distribution: without cache and padding, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plad_bench.contract.errors import StageError
from plad_bench.learn.incremental import Reader

LIMITS = {torch.float32: 5e-3, torch.bfloat16: 0.2}
"""Maximum mean difference of log-probabilities of sampled tokens in nats: ten times that of rounding."""
CHECKED = 3
"""Maximum number of texts that are compared, with the shortest and the longest prompt's among them."""


def chosen(prompts: Sequence[list[int]]) -> list[int]:
    """The indices of the texts to compare."""
    by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    return sorted({0, by_length[0], by_length[-1]})[:CHECKED]


def check(reader: Reader, role: str, texts: Sequence[tuple[list[int], list[int], Tensor]], dtype: torch.dtype) -> None:
    """Compare the probabilities of tokens when they were sampled with the model's own.

    Args:
        reader: the reader that was used for sampling.
        role: of its model in the training: student or teacher.
        texts: prompt, response, and the probability of each token of the response, [T], NaN if unknown.
        dtype: of the model's computation.

    Raises:
        StageError: naming the model, if the difference exceeds rounding.
    """
    difference = difference_beyond_rounding(reader, [(p, r, then.log()) for p, r, then in texts], dtype)
    if difference:
        raise StageError(
            f"{type(reader.model).__name__} cannot be sampled from during training: log-probabilities of sampled "
            f"tokens under the {role} differ by {difference:.2g} nats on average from those without a cache",
            "Use methods that train on fixed text with this model, and report its config.json as a bug.",
        )


def difference_beyond_rounding(
    reader: Reader, texts: Sequence[tuple[list[int], list[int], Tensor]], dtype: torch.dtype
) -> float:
    """The mean difference of log-probabilities of sampled tokens from the model's own, in nats; 0 if it is rounding.

    Args:
        reader: of the model, at the temperature of these log-probabilities.
        texts: prompt, response, and the log-probability of each token of the response, [T], NaN if unknown.
        dtype: of the model's computation.
    """
    gap = torch.cat([(said - own_logprobs(reader, prompt, response)).abs() for prompt, response, said in texts])
    gap = gap[~gap.isnan()].clamp_max(100.0)
    mean = float(gap.mean()) if len(gap) else 0.0
    return mean if mean > LIMITS[dtype] else 0.0


def own_logprobs(reader: Reader, prompt: list[int], response: list[int]) -> Tensor:
    """The log-probability of each token of a response, [T], in one pass of the reader's model."""
    model, known = reader.model, reader.known
    if model.config.is_encoder_decoder:
        begin = [model.config.decoder_start_token_id]
        ids = {"input_ids": prompt, "decoder_input_ids": [*begin, *response[:-1]]}
    else:
        ids = {"input_ids": [*prompt, *response[:-1]]}
    options = {"use_cache": False, "logits_to_keep": len(response)}
    output = model(
        **{name: torch.tensor([tokens], device=model.device) for name, tokens in ids.items()},
        **{name: value for name, value in options.items() if name in known},
    )
    logits = reader.softened(output.logits[0, -len(response) :])
    return logits.log_softmax(-1).gather(-1, torch.tensor(response, device=model.device)[:, None])[:, 0]

"""A training step as one writes it by hand: the plain PyTorch loop of benchmarks/peers.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from peers_work import CLIP, LR, Clock, Turn, Work, padded
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name


def divergence(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Forward KL (beta 0) or the Jensen-Shannon divergence, [N], of logits [N, V], written plainly."""
    log_q, log_p = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    if beta == 0:
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    mixed = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    of_p, of_q = (log_p.exp() * (log_p - mixed)).sum(-1), (log_q.exp() * (log_q - mixed)).sum(-1)
    return beta * of_p + (1 - beta) * of_q


def response_logits(model: Any, ids: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Logits of the response tokens alone, [N, V]: what needs no logits gets none."""
    return model.lm_head(
        model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][valid]
    )


def logprobs(model: Any, work: Work, sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Summed log-probability of every response and its number of tokens, each [B]."""
    ids, mask, labels = padded(work, sequences)
    valid = labels[:, 1:] != -100
    tokens = F.cross_entropy(response_logits(model, ids, mask, valid).float(), labels[:, 1:][valid], reduction="none")
    sums = torch.zeros(len(ids), device=ids.device).index_add(0, valid.nonzero()[:, 0], -tokens)
    return sums, valid.sum(1)


def loop_loss(step: str, model: Any, work: Work, reference: Tensor | None) -> Tensor:
    """The loss of a batch, as one writes it by hand."""
    if step in {"dpo", "plad"}:
        sums, lengths = logprobs(model, work, [*work.sequences, *work.rejected])
        chosen, rejected = sums.chunk(2)
        if reference is not None:
            of_chosen, of_rejected = reference.chunk(2)
            return -F.logsigmoid(0.1 * ((chosen - of_chosen) - (rejected - of_rejected))).mean()
        anchor = -chosen / lengths.chunk(2)[0]
        return ((10.0 - (chosen - rejected)).clamp_min(0) + 30.0 * anchor).mean()
    sequences = work.sequences
    if step == "gkd":
        sequences = generated(model, work)
    ids, mask, labels = padded(work, sequences)
    valid = labels[:, 1:] != -100
    logits = response_logits(model, ids, mask, valid)
    if step == "sft":
        return F.cross_entropy(logits.float(), labels[:, 1:][valid])
    with torch.no_grad():
        theirs = response_logits(work.teacher, ids, mask, valid)
    return divergence(logits, theirs, 0.0 if step == "kd" else 0.5).mean()


@torch.no_grad()
def generated(model: Any, work: Work) -> list[tuple[list[int], list[int]]]:
    """Prompts with responses that the model samples, token by token: faster than its own generate."""
    from transformers import DynamicCache

    cache, tokens, made = DynamicCache(config=model.config), prompts_of(work), []
    model.eval()
    for _ in range(work.new_tokens):
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens = torch.multinomial(output.logits[:, -1].float().softmax(-1), 1)
        made.append(tokens)
    model.train()
    ended = [row[: row.index(1) + 1] if 1 in row else row for row in torch.cat(made, 1).tolist()]
    return [(p, r) for (p, _), r in zip(work.sequences, ended, strict=True)]


def prompts_of(work: Work) -> Tensor:
    """Token ids of the prompts, [B, T]."""
    return torch.tensor([p for p, _ in work.sequences], device=work.device)


def loop(step: str, work: Work, count: int) -> Turn:
    """A turn of the plain loop."""
    model, losses = work.student().train(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    with torch.no_grad(), work.autocast():
        reference = logprobs(model, work, [*work.sequences, *work.rejected])[0] if step == "dpo" else None
    clock = Clock(work)
    for _ in range(count):
        with work.autocast():
            loss = loop_loss(step, model, work, reference)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        clock.tick()
    return Turn(losses[0], clock.seconds, 0)

"""openai: a teacher behind any OpenAI-compatible endpoint. It gives text; the text is asked for once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from plad_bench import Access, Price, Request, RequestContext, Response, Teacher, param
from plad_bench_plugins._openai import Answer, EndpointParams, ask


class OpenAIParams(EndpointParams):
    """An endpoint, and what it is told beside the prompts."""

    instruction: str = param("", source="ours")
    """What the model is told before every prompt: the system message."""
    thinking: int = param(0, ge=0, source="ours")
    """Tokens that a reasoning model may think beside the response. Above 0 no temperature is sent, and the length limit
    goes under the name max_completion_tokens, as such models ask."""

    def price_of_asking(self) -> Price | None:
        """What tokens cost, with those of the instruction."""
        if self.price is None:
            return None
        return Price(
            per_million_in=self.price.per_million_in,
            per_million_out=self.price.per_million_out,
            extra_in=len(self.instruction.encode()) // 4,
            extra_out=self.thinking,
        )

    def request(self, prompt: str, context: RequestContext, sample: int) -> dict[str, Any]:
        """What is posted for a prompt. Top-k is no part of the interface and is not sent."""
        if self.thinking:
            options: dict[str, Any] = {"max_completion_tokens": context.max_new_tokens + self.thinking}
        else:
            options = {"max_tokens": context.max_new_tokens, "temperature": context.temperature}
            if context.temperature:
                options["seed"] = context.seed + sample
        return self.body(prompt, system=self.instruction, **options)


def responses(
    requests: Sequence[Request], params: OpenAIParams, context: RequestContext
) -> Iterator[tuple[Response, ...]]:
    """One response to each request, or several where they are sampled. Errors as `_openai.ask`."""
    samples = range(context.samples)
    answers = ask(
        params,
        {f"{q.id} {n}": params.request(q.prompt, context, n) for q in requests for n in samples},
        context.response_cache,
        budget=context.budget,
        progress=context.progress,
        counts=context.counts,
    )
    _count(params, list(answers.values()), context)
    for q in requests:
        given = [answers[f"{q.id} {n}"] for n in samples]
        yield tuple(Response(text=answer.text.strip(), finished=answer.finished) for answer in given)


def _count(params: OpenAIParams, answers: Sequence[Answer], context: RequestContext) -> None:
    """Tokens and money of all the answers, bought by this run or an earlier one."""
    known = [a for a in answers if a.prompt_tokens is not None and a.completion_tokens is not None]
    tokens_in = sum(a.prompt_tokens or 0 for a in known)
    tokens_out = sum(a.completion_tokens or 0 for a in known)
    context.cost["tokens_prompted"], context.cost["tokens_generated"] = tokens_in, tokens_out
    if params.price is not None:
        context.cost["money"] = params.price.of(tokens_in, tokens_out)
    if len(known) < len(answers):
        context.counts["without_usage"] = len(answers) - len(known)


RECORDS = (
    Teacher(
        name="openai",
        summary="A model behind any OpenAI-compatible endpoint, asked for text.",
        params=OpenAIParams,
        provides=frozenset({Access.TEXT}),
        responses=responses,
        price=OpenAIParams.price_of_asking,
        require=lambda params: params.key() and None,
    ),
)

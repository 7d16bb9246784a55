"""openai: a teacher behind any OpenAI-compatible endpoint. It provides text; responses are cached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from plad_bench import Access, Price, Request, RequestContext, Response, Teacher, param
from plad_bench_plugins._openai import Answer, EndpointParams, ask


class OpenAIParams(EndpointParams):
    """An endpoint and its request settings."""

    instruction: str = param("", source="ours")
    """System message of every request."""
    thinking: int = param(0, ge=0, source="ours")
    """Maximum number of thinking tokens of a reasoning model, in addition to the response. If above 0, requests contain
    no temperature and use max_completion_tokens as the length limit, as reasoning models require."""

    def price_of_asking(self) -> Price | None:
        """The price of tokens, including those of the instruction."""
        if self.price is None:
            return None
        return Price(
            per_million_in=self.price.per_million_in,
            per_million_out=self.price.per_million_out,
            extra_in=len(self.instruction.encode()) // 4,
            extra_out=self.thinking,
        )

    def request(self, prompt: str, context: RequestContext, sample: int) -> dict[str, Any]:
        """The request body for a prompt. Top-k is not part of the API and is not sent."""
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
    """One response per request, or several if sampling. Errors as `_openai.ask`."""
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
    """Record the tokens and cost of all responses, including cached ones."""
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
        summary="A model behind any OpenAI-compatible endpoint; provides text.",
        params=OpenAIParams,
        provides=frozenset({Access.TEXT}),
        responses=responses,
        price=OpenAIParams.price_of_asking,
        require=lambda params: params.key() and None,
    ),
)

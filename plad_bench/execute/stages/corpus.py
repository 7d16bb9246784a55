"""The training data of a stage: prompts, responses and pairs as token ids."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plad_bench.contract.enums import STAGE_OF, Text
from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.jsonlines import read_lines
from plad_bench.execute.stages.files import LOGPROBS, PAIRS, Prompt, read_prompts, read_responses, response_of
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from plad_bench.learn.sequences import Encoder, Tokens


class Corpus:
    """The training prompts with their token ids, in the same order for all methods."""

    def __init__(self, prompts: Sequence[Prompt], encoded: Sequence[list[int]], encoder: Encoder) -> None:
        self.prompts, self.encoded, self.encoder = prompts, encoded, encoder
        self.teacher: Encoder | None = None
        """The teacher's encoder, if its tokenizer or its prompts differ from the student's."""

    def responses(self, context: Context, text: Text) -> list[list[Tokens]]:
        """The sequences of every prompt from a source of text, without empty ones, which are counted."""
        if text is Text.REFERENCE:
            by_id = {p.id: tuple(Response(text=r) for r in p.references) for p in self.prompts}
            if missing := [id_ for id_, references in by_id.items() if not references]:
                raise StageError(f"{len(missing)} training prompts have no reference, among them {missing[0]}")
        else:
            by_id = read_responses(context.inputs[STAGE_OF[text]], self.prompts)
            by_id = _shuffled(by_id, [p.id for p in self.prompts]) if text is Text.SHUFFLED else by_id
        every = [
            [self._spelled(p.prompt, ids, response) for response in by_id[p.id]]
            for p, ids in zip(self.prompts, self.encoded, strict=True)
        ]
        some = [[sequence for sequence in several if not sequence.empty] for several in every]
        count(context, "empty_responses", sum(map(len, every)) - sum(map(len, some)))
        return some

    def validation(self, context: Context) -> list[Tokens]:
        """The first validation prompts, each with its first reference."""
        from plad_bench.learn.steps import VALIDATION_PROMPTS

        limit = min(VALIDATION_PROMPTS, context.spec.get("limit") or VALIDATION_PROMPTS)
        prompts = [p for p in read_prompts(context.inputs["data"], "validation", limit) if p.references]
        if not prompts:
            raise StageError("no validation prompt has a reference, and the method needs a validation loss")
        return [self._spelled(p.prompt, self.encoder.prompt(p.prompt), Response(text=p.references[0])) for p in prompts]

    def pairs(self, context: Context) -> list[dict[str, Any]]:
        """Encoded pairs in the order of their file, with scores and the reference model's log-probabilities."""
        rows = list(read_lines(context.inputs["pairs"].path / PAIRS))
        if "reference" in context.inputs:
            logprobs = json.loads((context.inputs["reference"].path / LOGPROBS).read_text())
            rows = [row | logprob for row, logprob in zip(rows, logprobs, strict=True)]
        prompts = {p.id: ids for p, ids in zip(self.prompts, self.encoded, strict=True)}
        sides = ("chosen", "rejected")
        return [row | {s: self.sequence(prompts[row["id"]], response_of(row[s])) for s in sides} for row in rows]

    def _spelled(self, text: str, prompt: list[int], response: Response) -> Tokens:
        """A prompt and a response as the student's tokens, and as the teacher's if they differ."""
        if self.teacher is None:
            return self.sequence(prompt, response)
        teacher_prompt = self.teacher.prompt(text)
        if self.same_tokens:
            return self.encoder.beside(prompt, self.encoder.response(response), self.teacher, teacher_prompt)
        mine = self.sequence(prompt, response)
        return replace(mine, teacher=self.teacher.sequence(teacher_prompt, self.teacher.response(response)))

    @property
    def same_tokens(self) -> bool:
        """Whether the teacher has the student's tokenizer, so that only its prompts differ."""
        return self.teacher is not None and self.teacher.hash == self.encoder.hash

    def sampled(self, index: int, response: list[int]) -> Tokens:
        """A training prompt and a response sampled from the student."""
        from plad_bench.learn.sequences import Tokens

        prompt = self.encoded[index]
        if self.teacher is None or self.teacher_prompts is None:
            return Tokens(prompt, response)
        return self.encoder.beside(prompt, response, self.teacher, self.teacher_prompts[tuple(prompt)])

    @functools.cached_property
    def teacher_prompts(self) -> dict[tuple[int, ...], list[int]] | None:
        """Training prompt of the student -> that of a teacher with the same tokenizer; None if they are equal."""
        if self.teacher is None or not self.same_tokens:
            return None
        both = zip(self.encoded, self.prompts, strict=True)
        return {tuple(own): self.teacher.prompt(prompt.prompt) for own, prompt in both}

    @property
    def ends(self) -> tuple[int, int] | None:
        """The end tokens of student and teacher, if the teacher has the same tokenizer and other prompts."""
        return (self.encoder.end, self.teacher.end) if self.teacher is not None and self.same_tokens else None

    def sequence(self, prompt: list[int], response: Response) -> Tokens:
        """A prompt and a response as one sequence, truncated to the context."""
        return self.encoder.sequence(prompt, self.encoder.response(response))


def count(context: Context, name: str, number: int) -> None:
    """Add to a count of the stage; a count of zero is not recorded."""
    if number:
        context.counts[name] = context.counts.get(name, 0) + number


def _shuffled(by_id: Mapping[str, tuple[Response, ...]], ids: Sequence[str]) -> dict[str, tuple[Response, ...]]:
    """The responses of every prompt replaced by those of the next one by id. Ids are hashes, so the order is random."""
    if len(ids) < 2:
        raise StageError("the only training prompt has no other's response", "Provide more data, or raise --limit.")
    order = sorted(ids)
    return {id_: by_id[other] for id_, other in zip(order, [*order[1:], order[0]], strict=True)}

"""The data of each step: sequences of a token objective, from its sources of text, or pairs of a pair objective."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from plad_bench.contract.enums import Text
from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.objectives import Term, TokenObjective
from plad_bench.learn import ranks, sequences
from plad_bench.learn.memory import fit, room_for
from plad_bench.learn.models import evaluating
from plad_bench.learn.objectives import TokenLoss
from plad_bench.learn.rollouts import Sampler
from plad_bench.learn.seeds import derive
from plad_bench.learn.sequences import Order, Tokens
from plad_bench.learn.teacher_cache import Events, TeacherCache, Whole
from plad_bench.learn.training import Step, Steps

VALIDATION_PROMPTS = 64
"""Validation prompts that a validation loss is computed on: the first ones."""


@dataclass
class TokenSteps(Steps):
    """The steps of a token objective. Its state holds the method's schedule, the replay buffers and the costs."""

    objective: TokenObjective
    params: Any
    module: TokenLoss
    examples: Sequence[str]
    """Ids of the training prompts."""
    prompts: Sequence[list[int]]
    """Their token ids."""
    fixed: Mapping[Text, Sequence[Sequence[Tokens]]]
    """Source of text that exists before training -> the sequences of every prompt."""
    order: Order | Sequence[Sequence[int]]
    """Indices of the prompts of every step."""
    rollouts: Sampler | None
    """Required by terms on on-policy text."""
    validation: Sequence[Tokens]
    """Required by schedules that read a validation loss."""
    cost: dict[str, float]
    """Counts teacher_tokens_scored and teacher_tokens_cached."""
    seed: int
    pad: int
    device: str
    caches: Sequence[TeacherCache] = ()
    """Precomputed teacher log-probabilities."""
    memory_policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """For validation losses, which are computed outside the training loop."""
    spell: Callable[[int, list[int]], Tokens] | None = None
    """(index of a prompt, response) -> the sequence, if the teacher reads other tokens for the prompt."""

    def __post_init__(self) -> None:
        schedule = self.objective.schedule
        self.terms = self.objective.active(self.params)
        self.scheduled: Mapping[str, Any] = schedule.start(self.params) if schedule else {}
        self.replay: list[list[Tokens]] = [[] for _ in self.terms]

    def at(self, number: int, share: float) -> Step:
        """Set the parameters of the step, and choose or sample the sequences of every term."""
        if (schedule := self.objective.schedule) is not None:
            self.module.params = schedule.apply(self.params, self.scheduled, share)
        before = self._elsewhere()
        chosen = [(term, self._sequences(index, term, number)) for index, term in enumerate(self.terms)]
        every = [s for _, some in chosen for s in some]
        return Step(
            self._micro_batches(chosen),
            max((ranks.even(0, len(some)) for _, some in chosen if some), default=0),
            sum(len(s.response) for s in every),
            read=sum(map(len, every)),
            elsewhere=self._elsewhere() - before,
        )

    def _elsewhere(self) -> float:
        return 0.0 if self.rollouts is None else self.rollouts.elsewhere

    def close(self) -> None:
        """Stop what samples."""
        if self.rollouts is not None:
            self.rollouts.close()

    def after(self, number: int, share: float, loss: float, *, ends_part: bool) -> dict[str, float]:
        """Update the method's schedule with the loss and, ten times in a run, a validation loss; return its numbers."""
        schedule = self.objective.schedule
        if schedule is None:
            return {}
        validation = self._validation_loss() if schedule.validates and ends_part else None
        self.scheduled = schedule.update(self.params, self.scheduled, share, loss, validation)
        return {name: value for name, value in self.scheduled.items() if isinstance(value, int | float)}

    def state(self) -> dict[str, Any]:
        """The state of the schedule, the replay buffers and the costs, as JSON values."""
        replay = [[_state(s) for s in buffer] for buffer in self.replay]
        return {"schedule": dict(self.scheduled), "replay": replay, "cost": dict(self.cost)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.scheduled = state["schedule"]
        self.replay = [[_tokens(*kept) for kept in buffer] for buffer in state["replay"]]
        self.cost.update(state["cost"])

    def _sequences(self, index: int, term: Term, number: int) -> list[Tokens]:
        rows, scope = self.order[number], (self.seed, "text", number, index)
        texts = self._texts(term, rows, scope)
        if not self.replay[index]:
            texts = [Text.STUDENT if text is Text.REPLAY else text for text in texts]
        where = list(zip(rows, texts, strict=True))
        replayed = _sample(self.replay[index], texts.count(Text.REPLAY), scope)
        fresh = self._fresh(index, term, number, [i for i, text in where if text is Text.STUDENT])
        made = {Text.REPLAY: iter(replayed), Text.STUDENT: iter(fresh)}
        every = [next(made[text]) if text in made else self._there(text, i, number) for i, text in where]
        return [sequence for sequence in every if sequence is not None]

    def _texts(self, term: Term, rows: Sequence[int], scope: tuple[object, ...]) -> list[Text]:
        """The source of each sequence of a step."""
        shares = term.sources(self.module.params)
        if term.draw == "step":
            return [choice(shares, scope)] * len(rows)
        return [choice(shares, scope, self.examples[i]) for i in rows]

    def _there(self, text: Text, i: int, number: int) -> Tokens | None:
        """One of a prompt's responses; None if it has none, so that the prompt keeps its place and trains nothing."""
        there = self.fixed[text][i]
        return there[sequences.pick(len(there), self.seed, number, self.examples[i])] if there else None

    def _fresh(self, index: int, term: Term, number: int, rows: Sequence[int]) -> list[Tokens]:
        if not rows:
            return []
        assert self.rollouts is not None  # noqa: S101  the stage provides one wherever a term may sample
        sampling = term.sampling(self.module.params)
        prompts = [self.prompts[i] for i in rows]
        responses = self.rollouts.sample(prompts, [self.examples[i] for i in rows], number, sampling)
        spell = self.spell or (lambda i, response: Tokens(self.prompts[i], response))
        made = [spell(i, response) for i, response in zip(rows, responses, strict=True)]
        if sampling.replay:
            self.replay[index] = (self.replay[index] + made)[-sampling.replay :]
        return made

    def _micro_batches(self, chosen: Sequence[tuple[Term, Sequence[Tokens]]]) -> Callable[[int], list[dict[str, Any]]]:
        """(maximum size) -> the micro-batches of every term. Repeated calls count the teacher's work once."""
        before = dict(self.cost)

        def micro_batches(size: int) -> list[dict[str, Any]]:
            self.cost.clear()
            self.cost.update(before)
            return [one for term, some in chosen for one in self._of_term(term, some, size)]

        return micro_batches

    def _of_term(self, term: Term, chosen: Sequence[Tokens], size: int) -> Iterator[dict[str, Any]]:
        total = sum(len(s.response) for s in chosen)
        for indices in sequences.micro_batches(chosen, ranks.even(size, len(chosen))):
            some = [chosen[i] for i in indices]
            batch = sequences.collate(some, self.pad, self.device)
            yield {"term": term, "batch": batch, "total": total, "known": self._known(some)}

    def _known(self, some: Sequence[Tokens]) -> Whole | Events | None:
        """The precomputed teacher log-probabilities of these sequences; None unless all of them have some."""
        if not self.objective.teacher_logits:
            return None
        known = next((found for cache in self.caches if (found := cache.target(some))), None)
        count = "teacher_tokens_scored" if known is None else "teacher_tokens_cached"
        self.cost[count] = self.cost.get(count, 0) + sum(len(s.response) for s in some)
        if known is None and self.module.teacher is None:
            raise StageError(
                "a sequence has no precomputed teacher log-probabilities: it was truncated to a context other than the "
                "teacher's",
                "Use --teacher-logprobs live, or lower --max-new-tokens.",
            )
        return known

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """The objective on the validation sequences, whichever text its terms train on."""
        micro_batches = self._micro_batches([(term, self.validation) for term in self.terms])

        def loss(size: int) -> float:
            return sum(float(self.module(**one)[0]) for one in micro_batches(size))

        what = "the validation loss of one sequence"
        with evaluating(self.module):
            if self.module.sharded:  # all ranks read the same sequences together, so none can try fewer by itself
                with room_for(what):
                    return loss(1)
            return fit(loss, len(self.validation), self.memory_policy, what=what)


@dataclass
class PairSteps(Steps):
    """The steps of a pair objective."""

    pairs: Mapping[str, Sequence[Mapping[str, Any]]]
    """Id of a prompt -> its pairs: chosen and rejected as `Tokens`, with their scores and log-probabilities."""
    examples: Sequence[str]
    """Ids of the training prompts."""
    order: Order | Sequence[Sequence[int]]
    """Indices of the prompts of every step."""
    seed: int
    pad: int
    device: str

    def at(self, number: int, share: float) -> Step:
        """Choose a pair of every prompt; a prompt without one keeps its place in the order and trains nothing."""
        ids = [id_ for i in self.order[number] if (id_ := self.examples[i]) in self.pairs]
        rows = [self.pairs[id_][sequences.pick(len(self.pairs[id_]), self.seed, number, id_)] for id_ in ids]
        both = [row[side] for row in rows for side in ("chosen", "rejected")]
        return Step(
            functools.partial(self._micro_batches, rows),
            ranks.even(0, len(rows)) if rows else 0,
            sum(len(s.response) for s in both),
            read=sum(map(len, both)),
        )

    def _micro_batches(self, rows: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
        made = []
        for indices in sequences.micro_batches([row["chosen"] for row in rows], ranks.even(size, len(rows))):
            some = [rows[i] for i in indices]
            batch = sequences.collate([row[s] for s in ("chosen", "rejected") for row in some], self.pad, self.device)
            known = some[0].keys() - {"id", "chosen", "rejected"}
            scores = {name: torch.tensor([row[name] for row in some], device=self.device) for name in sorted(known)}
            made.append({"batch": batch, "scores": scores, "total": len(rows)})
        return made


def _state(tokens: Tokens) -> list[Any]:
    own = [tokens.prompt, tokens.response]
    return own if tokens.teacher is None else [*own, [tokens.teacher.prompt, tokens.teacher.response], tokens.ends]


def _tokens(prompt: list[int], response: list[int], teacher: Any = None, ends: Any = None) -> Tokens:
    return Tokens(prompt, response, Tokens(*teacher) if teacher else None, tuple(ends) if ends else None)


def choice(shares: Mapping[Text, float], *scope: object) -> Text:
    """A source of text drawn with the probabilities in `shares`; a function of these and of the scope alone."""
    texts = list(shares)
    return random.Random(derive(*scope)).choices(texts, [shares[text] for text in texts])[0]


def _sample(buffer: Sequence[Tokens], count: int, *scope: object) -> list[Tokens]:
    """`count` sequences of a buffer, each at most once unless there are too few."""
    random_ = random.Random(derive("replay", *scope))
    return random_.sample(buffer, count) if count <= len(buffer) else random_.choices(buffer, k=count)

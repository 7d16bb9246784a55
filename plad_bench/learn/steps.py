"""What each step of a token objective trains on: text from its sources, under parameters that may follow a schedule."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from plad_bench.contract.enums import Text
from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.objectives import Term, TokenObjective
from plad_bench.learn import ranks, sequences
from plad_bench.learn.memory import fit
from plad_bench.learn.objectives import TokenLoss
from plad_bench.learn.rollouts import Sampler
from plad_bench.learn.seeds import derive
from plad_bench.learn.sequences import Tokens
from plad_bench.learn.teacher_cache import Events, Signals, Whole
from plad_bench.learn.training import MicroStep, Step

VALIDATIONS = 10
"""How many times in training a schedule that asks for it hears of the validation loss."""
VALIDATION_PROMPTS = 64
"""On how many of the first validation prompts that is taken."""


@dataclass
class TokenSteps:
    """The steps of one training run. Remembers the state of the schedule and the replay buffers."""

    objective: TokenObjective
    params: Any
    module: TokenLoss
    examples: Sequence[str]
    """Ids of the training prompts."""
    prompts: Sequence[list[int]]
    """Their token ids."""
    fixed: Mapping[Text, Sequence[Sequence[Tokens]]]
    """The sequences of every prompt from each source of text that was there before training."""
    order: Sequence[Sequence[int]]
    """The prompts of every step."""
    rollouts: Sampler | None
    """Needed where a term asks for the student's own text."""
    validation: Sequence[Tokens]
    """Needed where the schedule validates."""
    cost: dict[str, float]
    """Counts teacher_tokens_scored and teacher_tokens_cached."""
    seed: int
    pad: int
    device: str
    signals: Sequence[Signals] = ()
    """Teacher distributions that were computed before training."""
    memory_policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """How memory is spared where a loss is taken beside the steps."""
    spell: Callable[[int, list[int]], Tokens] | None = None
    """(index of a prompt, response) -> the sequence, where the teacher is given prompts in another way."""

    def __post_init__(self) -> None:
        schedule = self.objective.schedule
        self.terms = self.objective.active(self.params)
        self.scheduled: Mapping[str, Any] = schedule.start(self.params) if schedule else {}
        self.replay: list[list[Tokens]] = [[] for _ in self.terms]

    def at(self, number: int) -> Step:
        """The step of a number."""
        self.module.params = self._effective(number)
        chosen = [(term, self._sequences(index, term, number)) for index, term in enumerate(self.terms)]
        every = [s for _, some in chosen for s in some]
        return Step(
            self._micro(chosen),
            max((ranks.even(0, len(some)) for _, some in chosen if some), default=0),
            sum(len(s.response) for s in every),
            read=sum(map(len, every)),
        )

    def after(self, number: int, loss: float) -> dict[str, float]:
        """Tell the schedule of a step's loss and, when it is time, of the validation loss; return its numbers."""
        schedule = self.objective.schedule
        if schedule is None:
            return {}
        steps = len(self.order)
        due = schedule.validates and (number + 1) % max(1, steps // VALIDATIONS) == 0
        validation = self._validation_loss() if due else None
        self.scheduled = schedule.update(self.params, self.scheduled, (number + 1) / steps, loss, validation)
        return {name: value for name, value in self.scheduled.items() if isinstance(value, int | float)}

    def state(self) -> dict[str, Any]:
        """The schedule's state, the replay buffers and what was counted, as JSON values."""
        replay = [[_state(s) for s in buffer] for buffer in self.replay]
        return {"schedule": dict(self.scheduled), "replay": replay, "cost": dict(self.cost)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.scheduled = state["schedule"]
        self.replay = [[_tokens(*kept) for kept in buffer] for buffer in state["replay"]]
        self.cost.update(state["cost"])

    def _effective(self, number: int) -> Any:
        schedule = self.objective.schedule
        return schedule.apply(self.params, self.scheduled, number / len(self.order)) if schedule else self.params

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
        """Where each of a step's sequences comes from."""
        shares = term.sources(self.module.params)
        if term.draw == "step":
            return [choice(shares, scope)] * len(rows)
        return [choice(shares, scope, self.examples[i]) for i in rows]

    def _there(self, text: Text, i: int, number: int) -> Tokens | None:
        """One of a prompt's responses; None if it has none: it keeps its place in the order, and trains nothing."""
        there = self.fixed[text][i]
        return there[sequences.pick(len(there), self.seed, number, self.examples[i])] if there else None

    def _fresh(self, index: int, term: Term, number: int, rows: Sequence[int]) -> list[Tokens]:
        if not rows:
            return []
        assert self.rollouts is not None  # noqa: S101  the stage makes one wherever a term may ask
        sampling = term.sampling(self.module.params)
        prompts = [self.prompts[i] for i in rows]
        responses = self.rollouts.sample(prompts, [self.examples[i] for i in rows], number, sampling)
        spell = self.spell or (lambda i, response: Tokens(self.prompts[i], response))
        made = [spell(i, response) for i, response in zip(rows, responses, strict=True)]
        if sampling.replay:
            self.replay[index] = (self.replay[index] + made)[-sampling.replay :]
        return made

    def _micro(self, chosen: Sequence[tuple[Term, Sequence[Tokens]]]) -> Callable[[int], list[MicroStep]]:
        """The micro-batches of every term's sequences; what they ask of the teacher counts once, however often made."""
        before = dict(self.cost)

        def micro(size: int) -> list[MicroStep]:
            self.cost.clear()
            self.cost.update(before)
            return [step for term, some in chosen for step in self._micro_steps(term, some, size)]

        return micro

    def _micro_steps(self, term: Term, chosen: Sequence[Tokens], size: int) -> list[MicroStep]:
        total = sum(len(s.response) for s in chosen)
        steps: list[MicroStep] = []
        for indices in sequences.micro_batches(chosen, ranks.even(size, len(chosen))):
            some = [chosen[i] for i in indices]
            known = self._known(some)
            batch = sequences.collate(some, self.pad, self.device)
            steps.append(functools.partial(_call, term=term, batch=batch, total=total, known=known))
        return steps

    def _known(self, some: Sequence[Tokens]) -> Whole | Events | None:
        """What was computed of these sequences before training, if it was of all."""
        if not self.objective.teacher_logits:
            return None
        known = next((found for signals in self.signals if (found := signals.target(some))), None)
        count = "teacher_tokens_scored" if known is None else "teacher_tokens_cached"
        self.cost[count] = self.cost.get(count, 0) + sum(len(s.response) for s in some)
        if known is None and not self.module.has_teacher:
            raise StageError(
                "a sequence has no cached teacher distribution: it was cut to another context than the teacher's",
                "Use --teacher-logprobs live, or lower --max-new-tokens.",
            )
        return known

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """The objective on the validation sequences, whatever text its terms train on."""
        self.module.eval()
        micro = self._micro([(term, self.validation) for term in self.terms])

        def loss(size: int) -> float:
            return sum(float(step(self.module)[0]) for step in micro(size))

        try:
            return fit(loss, len(self.validation), self.memory_policy, what="the validation loss of one sequence")
        finally:
            self.module.train()


def _state(tokens: Tokens) -> list[Any]:
    own = [tokens.prompt, tokens.response]
    return own if tokens.teacher is None else [*own, [tokens.teacher.prompt, tokens.teacher.response], tokens.ends]


def _tokens(prompt: list[int], response: list[int], teacher: Any = None, ends: Any = None) -> Tokens:
    return Tokens(prompt, response, Tokens(*teacher) if teacher else None, tuple(ends) if ends else None)


def choice(shares: Mapping[Text, float], *scope: object) -> Text:
    """A source of text, drawn with the probabilities in `shares`; a function of those and of the scope alone."""
    texts = list(shares)
    return random.Random(derive(*scope)).choices(texts, [shares[text] for text in texts])[0]


def _sample(buffer: Sequence[Tokens], count: int, *scope: object) -> list[Tokens]:
    """Some of a buffer, each at most once unless there are too few."""
    random_ = random.Random(derive("replay", *scope))
    return random_.sample(buffer, count) if count <= len(buffer) else random_.choices(buffer, k=count)


def _call(module: Any, **arguments: Any) -> Any:
    return module(**arguments)

"""The stage graph of a cell: which stages a protocol needs, and which results each of them reads."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import evaluation_points, gguf, hub, rounds, training_budget
from plad_bench.contract.components import Training
from plad_bench.contract.enums import FIXED, STAGE_OF, Access, Need, Text
from plad_bench.contract.errors import UsageError
from plad_bench.contract.models import HubModel, ModelSource
from plad_bench.contract.objectives import PairObjective, TokenObjective
from plad_bench.contract.params import content_hash
from plad_bench.plan import expenses
from plad_bench.plan.stage import SFT_INIT, TEACHER, UNTOUCHED, Stage

if TYPE_CHECKING:
    from plad_bench.contract.protocol import Protocol
    from plad_bench.plan.chosen import Chosen

DATA_AS_BEFORE = {
    "3f6967f362e407d9e66dcacc8ffedd75d81d2425c15ee37155c3d1c987b5bae3": "demo",
    "9a348291e5bbe3e63c001f92b491f62fbd7de076fab2cb7d606f434fcbf42794": "e2e, its development and test files",
}
"""Keys of version 1 of the data stage that remain valid because version 2 gives the same result."""
SELECTION_POINTS, SELECTION_PROMPTS = 4, 100
"""How often a teacher's fine-tuning is measured, and on how many validation prompts at most."""
PROMPTS_VERSION = 1
"""Increase it when prompts or end tokens of published models would be formatted differently."""


def data_of(task: Chosen) -> Stage:
    """The stage that reads and splits a task."""
    spec = {"task": task.public(), "dataset": task.component.dataset, "revision": task.component.revision}
    stage = Stage("data", "data", spec, job={"task": task.private()}, owner=task.label)
    before = replace(stage, version=1)
    return before if before.key in DATA_AS_BEFORE else stage


@dataclass(frozen=True)
class Round:
    """A part of a method's training."""

    number: int = 1
    sample: Stage | None = None
    """Off-policy samples of the student at its start; None for the first, which has those of the SFT initialisation."""

    def named(self, stage: str) -> str:
        """The name of a stage that depends on its samples."""
        return rounds.name(stage, self.number)


FIRST = Round()


@dataclass(frozen=True)
class Plan:
    """The stages of one (task, teacher, student, seed), built on demand."""

    task: Chosen
    teacher: Chosen
    student: Chosen
    protocol: Protocol
    seed: int
    threads: int
    sft: Chosen
    """The method for the SFT initialisation and for teachers from scratch: SFT on references, or on the teacher's
    responses if the task has none."""
    validation: Chosen | None = None
    """The metric by which the best checkpoint of a teacher is chosen; None if the task has none that can."""
    prices: Mapping[str, Any] = field(default_factory=dict)
    """The board's prices, by which a budget of money is counted; see boardfile.Prices."""

    @functools.cached_property
    def data(self) -> Stage:
        """Grouped, split and audited examples."""
        return data_of(self.task)

    def model(self, source: ModelSource, seed: int | None, owner: str) -> Stage:
        """A model before training."""
        if isinstance(source, HubModel):
            local = "directory" if Path(source.id).is_dir() else "gguf" if gguf.is_gguf(source.id) else ""
            commit = None if local else hub.commit(source.id, source.revision)
            published = {"id": source.id, "revision": commit or source.revision}
            spec: dict[str, Any] = {local: content_hash(Path(source.id))} if local else published
            spec |= {"layers": source.layers} if source.layers else {}
            spec |= {"by": source.by} if source.by != "spacing" else {}
            spec |= {"width": source.width} if source.width else {}
            # What is kept is measured on training text.
            inputs = {"data": self.data} if {"by", "width"} & spec.keys() else {}
            spec |= {"prompts": {"version": PROMPTS_VERSION, **source.prompts.document()}}
            job = {"id": source.id, "revision": commit or source.revision}
            return Stage("init", "init", spec, inputs, job, owner=owner)
        vocabulary = {"vocabulary": source.vocabulary}
        tokenizer = Stage("tokenizer", "tokenizer", vocabulary, {"data": self.data}, owner=self.task.label)
        spec = {
            "layers": source.layers,
            "width": source.width,
            "heads": source.heads,
            "context": source.context,
            "seed": seed,
        }
        return Stage("init", "init", spec, {"tokenizer": tokenizer}, owner=owner)

    @functools.cached_property
    def init(self) -> Stage:
        """The untrained student. A student from scratch differs by seed; a pretrained one does not."""
        return self.model(self.student.component.model(self.student.params), self.seed, UNTOUCHED)

    @functools.cached_property
    def teacher_model(self) -> Stage:
        """The teacher's local model, fine-tuned on references if configured. Independent of the run's seed."""
        base = self.model(self.teacher.component.model(self.teacher.params), 0, TEACHER)
        training: Training | None = self.teacher.component.training(self.teacher.params)
        if training is None or training.steps == 0:
            return base
        pretrained = "tokenizer" not in base.inputs
        spec = {
            "steps": training.steps,
            "lr": training.lr,
            "batch": training.batch,
            "seed": 0,
            "precision": self.protocol.precision if pretrained else "float32",
            **({"lora": training.lora} if training.lora else {}),
            **(self._optimizer() if pretrained else {}),
        }
        stage = self.train("teacher", self.sft, base, spec, owner=TEACHER)
        if training.select == "last":
            return stage
        if self.validation is None:
            raise UsageError(
                f"{self.teacher.label}: no metric of {self.task.label} compares responses with references",
                "Use select=last.",
            )
        select = {
            "metric": self.validation.public(),
            "max_new_tokens": self.protocol.max_new_tokens,
            "points": SELECTION_POINTS,
            "prompts": SELECTION_PROMPTS,
        }
        job = {**stage.job, "select": self.validation.private()}
        return replace(stage, spec={**stage.spec, "select": select}, job=job)

    @functools.cached_property
    def sft_init(self) -> Stage:
        """The student after SFT initialisation, from which all methods start."""
        p = self.protocol
        if p.sft_steps == 0:
            return self.init
        (source,) = self.sft.component.objective.texts(self.sft.params)
        conditions = self.conditions({"steps": p.sft_steps}, p.sft_lr)
        return self.train("sft-init", self.sft, self.init, conditions, self.text(source), owner=SFT_INIT)

    @functools.cached_property
    def teach(self) -> Stage:
        """The teacher's responses to the training prompts. Independent of the run's seed."""
        p, backend = self.protocol, self.teacher.component.backend
        if self.teacher.component.model is None:
            return self.ask("teach", "train", temperature=p.teach_temperature, samples=p.samples)
        return self.generate(
            "teach",
            self.teacher_model,
            "train",
            temperature=p.teach_temperature,
            seed=0,
            samples=p.samples,
            backend=backend,
            logprobs=backend == "vllm",
        )

    @functools.cached_property
    def teacher_evaluated(self) -> Stage:
        """The teacher's greedy responses on the evaluation split."""
        if self.teacher.component.model is None:
            return self.ask("generate", self.protocol.split, temperature=0)
        return self.evaluate(self.teacher_model, self.teacher.component.backend)

    @functools.cached_property
    def sample(self) -> Stage:
        """The off-policy samples: responses of the student after SFT initialisation to the training prompts."""
        return self.samples_of(self.sft_init, "sample")

    def samples_of(self, student: Stage, name: str) -> Stage:
        """Off-policy samples of a student."""
        p = self.protocol
        return self.generate(
            name, student, "train", temperature=p.sample_temperature, seed=self.seed, samples=p.samples
        )

    def text(self, source: Text, of: Round = FIRST) -> dict[str, Stage]:
        """The input stage with a source of text in a round, if it has its own artifact."""
        role = STAGE_OF.get(source)
        if role is None:
            return {}
        return {role: of.sample if of.sample is not None and source is Text.SAMPLE else getattr(self, role)}

    def pairs(self, builder: Chosen, scorer: Chosen | None, orders: Chosen | None = None, of: Round = FIRST) -> Stage:
        """Preference pairs, ordered by a metric if the builder uses one, and scored if the method needs scores."""
        inputs = {"data": self.data}
        for source in builder.component.needs:
            inputs |= self.text(source, of)
        spec: dict[str, Any] = {"builder": builder.public(), **self._limit()}
        job: dict[str, Any] = {"builder": builder.private()}
        if scorer is not None:
            spec["scorer"], job["scorer"] = scorer.public(), scorer.private()
        if orders is not None:
            spec["orders"] = orders.public()
        return Stage(of.named("pairs"), "pairs", spec, inputs, job, owner=builder.label)

    def reference(self, pairs: Stage, of: Round = FIRST) -> Stage:
        """Log-probabilities of the pairs under the reference model."""
        spec = {"precision": self.protocol.precision, "threads": self.threads, **self._limit()}
        inputs = {"data": self.data, "model": self.sft_init, "pairs": pairs}
        return Stage(of.named("reference"), "reference", spec, inputs, owner="reference model")

    def distill(
        self, method: Chosen, builder: Chosen | None, scorer: Chosen | None, orders: Chosen | None = None
    ) -> Stage:
        """The method's checkpoint. Each round continues with the model of the one before, on new samples of it."""
        training = functools.partial(self._training, method, builder, scorer=scorer, orders=orders)
        length, count = self._length(), method.params.rounds  # type: ignore[attr-defined]
        if count == 1 or "budget" in length:  # which rounds do not divide: the cell is skipped
            return training(length, self.sft_init)
        student, of = self.sft_init, FIRST
        for number, (first, steps) in enumerate(rounds.parts(length["steps"], count), 1):
            if number > 1:
                of = Round(number, self.samples_of(student, rounds.name("sample", number)))
            student = training({"steps": steps, "part": [first, length["steps"]]}, student, of)
            if number < count:
                student = replace(student, name=rounds.earlier(number))
        return student

    def _training(
        self,
        method: Chosen,
        builder: Chosen | None,
        length: Mapping[str, Any],
        student: Stage,
        of: Round = FIRST,
        *,
        scorer: Chosen | None,
        orders: Chosen | None,
    ) -> Stage:
        """A method's training, or a round of it, that begins with a student."""
        objective = method.component.objective
        lr = method.params.lr or self.protocol.lr  # type: ignore[attr-defined]
        conditions = self.conditions(length, lr)
        if points := evaluation_points.parse(self.protocol.evaluate_at):
            conditions["evaluate_at"] = list(points)
        inputs: dict[str, Stage] = {}
        if isinstance(objective, PairObjective) and builder is not None:
            inputs["pairs"] = self.pairs(builder, scorer, orders, of)
            if objective.reference:
                inputs["reference"] = self.reference(inputs["pairs"], of)
        if isinstance(objective, TokenObjective):
            texts = objective.texts(method.params)
            for source in texts:
                inputs |= self.text(source, of)
            if Text.STUDENT in texts:
                conditions["max_new_tokens"] = self.protocol.max_new_tokens
                if self.protocol.rollouts != "transformers" and samples_alone(method):
                    conditions["rollouts"] = self.protocol.rollouts
            if objective.teacher_logits:
                inputs |= self._teacher_of(method, texts, of)
        training = self.train("distill", method, student, conditions, inputs, owner=method.label)
        if "budget" not in conditions:
            return training
        return replace(
            training, job={**training.job, "before": expenses.before((s.name, s.key) for s in training.walk())}
        )

    def _length(self) -> dict[str, Any]:
        """How long a method trains: a number of steps, a budget, or both."""
        p, budget = self.protocol, training_budget.parse(self.protocol.budget)
        if budget is None:
            return {"steps": p.steps}
        spec: dict[str, Any] = {"kind": budget.kind, "amount": budget.amount}
        if budget.kind == "money":
            spec["prices"] = dict(self.prices)
        return {"budget": spec} if budget.kind in training_budget.GROWING else {"budget": spec, "steps": p.steps}

    def _teacher_of(self, method: Chosen, texts: Sequence[Text], of: Round) -> dict[str, Stage]:
        """The teacher inputs of training: precomputed log-probabilities, and the teacher's model if it is needed."""
        cached, live = self._known(method, texts)
        k = kept_tokens(self.protocol.teacher_logprobs) or 0
        inputs = {f"signals-{text}": self.signals(text, k, of) for text in cached}
        return {**inputs, "teacher": self.teacher_model} if live else inputs

    def _known(self, method: Chosen, texts: Sequence[Text]) -> tuple[list[Text], bool]:
        """The sources of text with precomputed teacher log-probabilities, and whether training needs the teacher."""
        keeps = kept_tokens(self.protocol.teacher_logprobs) is not None and method.component.shared_vocabulary
        cached = [text for text in texts if text in FIXED and keeps]
        schedule = method.component.objective.schedule
        return cached, len(cached) < len(texts) or (schedule is not None and schedule.validates)

    def access(self, method: Chosen) -> Access:
        """The teacher access that a method needs: logits during training, or only precomputed log-probabilities."""
        component = method.component
        declared: Access = component.access
        if not isinstance(component.objective, TokenObjective) or not component.objective.teacher_logits:
            return declared
        _, live = self._known(method, component.objective.texts(method.params))
        if not live and kept_tokens(self.protocol.teacher_logprobs) and declared is Access.LOGITS:
            return Access.TOP_K
        return max(declared, Access.LOGITS, key=lambda access: access.tier)

    def signals(self, text: Text, k: int, of: Round = FIRST) -> Stage:
        """Precomputed teacher log-probabilities of a source of text."""
        spec = {
            "text": text.value,
            "k": k,
            "precision": self.protocol.precision,
            "threads": self.threads,
            **self._limit(),
            **({"backend": "vllm"} if self.teacher.component.backend == "vllm" else {}),
        }
        inputs = {"data": self.data, "teacher": self.teacher_model, **self.text(text, of)}
        name = of.named(f"signals-{text}") if text is Text.SAMPLE else f"signals-{text}"
        return Stage(name, "signals", spec, inputs, owner=TEACHER)

    def conditions(self, length: Mapping[str, Any], lr: float) -> dict[str, Any]:
        """The specification that all trainings under this protocol share; `length` says when they end."""
        p = self.protocol
        spec = {**length, "lr": lr, "batch": p.batch, "seed": self.seed, "precision": p.precision}
        spec |= {"lora": p.lora} if p.lora else {}
        spec |= self._optimizer()
        return spec | self._limit()

    def train(
        self,
        name: str,
        method: Chosen,
        model: Stage,
        conditions: Mapping[str, Any],
        extra: Mapping[str, Stage] | None = None,
        *,
        owner: str,
    ) -> Stage:
        """A training stage."""
        spec = {"method": method.public(), "threads": self.threads, **conditions}
        inputs = {"data": self.data, "model": model, **(extra or {})}
        return Stage(name, "train", spec, inputs, {"method": method.private()}, owner=owner)

    def _optimizer(self) -> dict[str, Any]:
        return {"optimizer": self.protocol.optimizer} if self.protocol.optimizer != "adamw" else {}

    def _limit(self) -> dict[str, Any]:
        return {"limit": self.protocol.limit} if self.protocol.limit else {}

    def generate(
        self,
        name: str,
        model: Stage,
        split: str,
        *,
        temperature: float,
        seed: int,
        samples: int = 1,
        top_k: int | None = None,
        backend: str = "",
        logprobs: bool = False,
    ) -> Stage:
        """Responses of a model to the prompts of a split; a temperature of 0 is greedy decoding of one response.

        `top_k` of None is the protocol's.
        """
        spec = {
            **self._decoding(split, temperature, seed, samples, top_k),
            "precision": self.protocol.precision,
            "threads": self.threads,
            "backend": backend or self.protocol.backend,
            **({"logprobs": True} if logprobs else {}),
        }
        return Stage(name, "generate", spec, {"data": self.data, "model": model}, owner=model.owner)

    def ask(self, name: str, split: str, *, temperature: float, samples: int = 1) -> Stage:
        """Responses of a teacher without a local model to the prompts of a split."""
        spec = {"teacher": self.teacher.public(), **self._decoding(split, temperature, 0, samples)}
        return Stage(name, "ask", spec, {"data": self.data}, {"teacher": self.teacher.private()}, owner=TEACHER)

    def _decoding(
        self, split: str, temperature: float, seed: int, samples: int, top_k: int | None = None
    ) -> dict[str, Any]:
        sampling: dict[str, Any] = {}
        if temperature:
            several = {"samples": samples} if samples != 1 else {}
            k = self.protocol.top_k if top_k is None else top_k
            sampling = {"temperature": temperature, "top_k": k, "seed": seed, **several}
        return {"split": split, "max_new_tokens": self.protocol.max_new_tokens, **sampling, **self._limit()}

    def evaluate(self, model: Stage, backend: str = "") -> Stage:
        """Greedy responses on the evaluation split."""
        return self.generate("generate", model, self.protocol.split, temperature=0, seed=0, backend=backend)

    def evaluate_at(self, training: Stage, percent: int) -> Stage:
        """Greedy responses of the model after a share of its training."""
        stage = self.evaluate(training)
        return replace(stage, spec={**stage.spec, "at": percent})

    def evaluate_samples(self, model: Stage, backend: str = "") -> Stage:
        """Several sampled responses to each prompt of the evaluation split."""
        p, seed = self.protocol, 0 if model.owner == TEACHER else self.seed
        return self.generate(
            "evaluate-samples",
            model,
            p.split,
            temperature=p.evaluate_temperature,
            seed=seed,
            samples=p.evaluate_samples,
            top_k=0,
            backend=backend,
        )

    def score_samples(self, metric: Chosen, checkpoint: Stage, samples: Stage) -> Stage:
        """One metric's values of every sample of each prompt; the metric reads only text."""
        stage = self.score(metric, checkpoint, samples)
        return replace(stage, name="score-samples", spec={**stage.spec, "samples": self.protocol.evaluate_samples})

    def score(self, metric: Chosen, checkpoint: Stage, responses: Stage) -> Stage:
        """One metric's per-example values of one cell."""
        needs = metrics_needs(metric)
        inputs = {"data": self.data, "responses": responses}
        if Need.TEACHER in needs:
            inputs["teacher"] = self.teacher_evaluated
        if Need.CHECKPOINT in needs:
            inputs["checkpoint"] = checkpoint
        if Need.TEACHER_LOGITS in needs:
            inputs["teacher_model"] = self.teacher_model
        if Need.SCORES in needs and metric.scorer is not None:
            inputs["scores"] = self.score(metric.scorer, checkpoint, responses)
        spec: dict[str, Any] = {"metric": metric.public()}
        job: dict[str, Any] = {"metric": metric.private()}
        if metric.scorer is not None:  # the result also depends on the version of the scorer
            spec["scorer"] = metric.scorer.public()
        return Stage("score", "score", spec, inputs, job, owner=responses.owner)


def is_scheduled(method: Chosen) -> bool:
    """Whether a schedule changes a method's parameters during its training."""
    return getattr(method.component.objective, "schedule", None) is not None


def samples_alone(method: Chosen) -> bool:
    """Whether a method with a token objective samples from the student without the teacher, in any of its terms."""
    terms = (t for t in method.component.objective.active(method.params) if Text.STUDENT in t.sources(method.params))
    return not all(term.sampling(method.params).uses_teacher for term in terms)


def metrics_needs(metric: Chosen) -> frozenset[str]:
    """The inputs of a metric, including those of its scorer."""
    own: frozenset[str] = metric.component.needs
    return own if metric.scorer is None or Need.SCORES in own else own | metrics_needs(metric.scorer)


def kept_tokens(teacher_logprobs: str) -> int | None:
    """The number of tokens per position for which log-probabilities are precomputed: 0 for all, None for live.

    Raises:
        UsageError: if the value is not live, dense or top-K.
    """
    if teacher_logprobs in {"live", "dense"}:
        return None if teacher_logprobs == "live" else 0
    found = re.fullmatch(r"top-([1-9]\d*)", teacher_logprobs)
    if found is None:
        raise UsageError(
            f"teacher_logprobs is {teacher_logprobs!r}", "Use live, dense, or top-K with a number, such as top-64."
        )
    return int(found[1])

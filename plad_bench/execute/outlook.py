"""Estimates a run's resources before it starts: device memory of each kind of stage, time, and disk."""

from __future__ import annotations

import math
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import gc_pause
from plad_bench.contract.errors import PladBenchError
from plad_bench.contract.machine import memory
from plad_bench.contract.models import HubModel
from plad_bench.execute.estimate import BYTES_PER_TOKEN, Prompts
from plad_bench.plan import compatibility, resources, shapes, template_length
from plad_bench.plan.published import parameters, pruned_parameters
from plad_bench.plan.resources import Device, Lengths, TrainingWork, Work
from plad_bench.plan.shapes import Shape
from plad_bench.plan.stage import TEACHER
from plad_bench.plan.stages import is_scheduled
from plad_bench.plan.trials import SEED

if TYPE_CHECKING:
    from plad_bench.execute.stages.data import Prepared
    from plad_bench.execute.stages.files import Prompt
    from plad_bench.execute.store import Store
    from plad_bench.plan.cell import Cell
    from plad_bench.plan.chosen import Chosen
    from plad_bench.plan.stage import Stage

PROMPT_TOKENS = 512
"""Default for a task whose data has not been read."""
READ = 300
"""Number of prompts whose tokens are counted."""
START_UP = 4.0
"""Seconds that a worker takes for imports, and for loading and saving."""
CORES = {"avx512f": 45e9, "avx2": 25e9}
"""Instructions of a processor -> operations per second that a thread reaches in a training step; the first measured."""


@dataclass(frozen=True)
class Slots:
    """The slots of a run, and how many of them a stage takes."""

    count: int
    """That work at the same time, each on a device of its own."""
    sharers: int = 1
    """Slots on the same GPU, which divide its time and its memory."""
    ranks: int = 1
    """Of a training."""
    shard: bool = False
    """Whether these share the trained model."""
    teacher_gpus: int = 1
    """Of a stage in which vLLM runs the teacher."""


@dataclass(frozen=True)
class StageWork:
    """Stages of one kind, with equal resources each."""

    name: str
    count: int
    work: Work


@dataclass(frozen=True)
class Outlook:
    """The resources of a run's stages that are not in the store."""

    parts: tuple[StageWork, ...]
    seconds: float
    """With all slots in use; 0 if the device's speed is unknown."""
    disk: float
    """Bytes of the results."""
    device: Device
    assumed: tuple[str, ...]
    """Assumptions about unknown values, in words."""
    pruned: tuple[str, ...] = ()
    """Exact sizes of pruned models, in words."""
    sharers: int = 1
    """Slots on the same GPU."""


@gc_pause.paused()
def outlook(cells: Sequence[Cell], store: Store, data: Mapping[str, Prepared], device: Device, slots: Slots) -> Outlook:
    """The resources that cells need.

    Args:
        cells: the cells to run.
        store: its artifacts are not computed again.
        data: task label -> data that was read.
        device: the device of each stage.
        slots: where the stages run.
    """
    device = replace(device, memory=device.memory / slots.sharers)
    reader = _Reader(store, data, device, slots)
    found: dict[str, list[Work]] = {}
    stages = {s.key: (cell, s) for cell in cells for s in cell.stages}
    waiting = store.missing(stages)
    for of, stage in (place for key, place in stages.items() if key in waiting):
        if (work := reader.work(of, stage)) is not None:
            found.setdefault(_name(of, stage), []).append(work)
    parts = tuple(
        StageWork(name, len(several), max(several, key=lambda work: (not work.fits, work.memory)))
        for name, several in found.items()
    )
    every = [work for several in found.values() for work in several]
    return Outlook(
        parts=parts,
        seconds=sum((work.seconds + START_UP) * work.ranks for work in every) / slots.count if device.flops else 0.0,
        disk=sum(work.disk for work in every),
        device=device,
        assumed=tuple(dict.fromkeys(reader.assumed)),
        pruned=tuple(reader.pruned.values()),
        sharers=slots.sharers,
    )


def _name(cell: Cell, stage: Stage) -> str:
    """What a reader is told of a stage. Of evaluated responses all models are together, and of a method its trials."""
    if stage.name in {"generate", "evaluate-samples"} or not stage.owner:
        return stage.action
    if cell.seed == SEED and (own := _own(cell, stage)) is not None:
        return f"trials of {own.component.name}: {stage.action}"
    return f"{stage.owner}: {stage.action}"


def _own(cell: Cell, stage: Stage) -> Chosen | None:
    """The cell's method, if the stage is its own, which other methods do not share."""
    return cell.method if cell.method is not None and stage.owner == cell.method.label else None


class _Reader:
    """Reads shapes and lengths, each once."""

    def __init__(self, store: Store, data: Mapping[str, Prepared], device: Device, slots: Slots) -> None:
        self._prompts, self._store, self._device, self._slots = Prompts(store, data), store, device, slots
        self._data = data
        self._counters: dict[str, Callable[[str], float]] = {}
        self._lengths: dict[tuple[str, str, int, int], Lengths] = {}
        self.assumed: list[str] = []
        self.pruned: dict[int, str] = {}
        """Number of parameters -> what has them, for models that are pruned, and whose files are here."""

    def work(self, cell: Cell, stage: Stage) -> Work | None:
        """The work of a stage; None if it is negligible, or unknown."""
        if stage.operation == "train":
            return self._training(cell, stage)
        model = stage.inputs.get("model") or stage.inputs.get("teacher")
        if stage.operation not in {"generate", "reference", "signals"} or model is None:
            return None
        shape = self._shape(cell, model)
        if shape is None:
            return None
        bf16 = stage.spec.get("precision") == "bf16"
        new = stage.spec.get("max_new_tokens", cell.protocol.max_new_tokens)
        split, limit = stage.spec.get("split", "train"), stage.spec.get("limit", 0)
        lengths, count = self._read(cell, stage, split, limit, new)
        count *= stage.spec.get("samples", 1)
        gpus = self._slots.teacher_gpus if stage.parallel else 1
        if stage.operation == "generate":
            found = resources.generation(shape, count, lengths, new, self._device, bf16=bf16)
            if stage.owner == TEACHER and self._device.gpu:
                found = resources.with_remedy(found, self._device)
            return resources.divided(found, gpus, self._device)
        found = resources.divided(resources.scoring(shape, count, lengths, self._device, bf16=bf16), gpus, self._device)
        if stage.operation != "signals":
            return found
        texts = count * max(source.spec.get("samples", 1) for source in stage.inputs.values())
        disk = resources.kept(shape, texts * lengths.response, stage.spec["k"], bf16=bf16)
        return replace(found, disk=disk)

    def _training(self, cell: Cell, stage: Stage) -> Work | None:
        student = self._shape(cell, stage.inputs["model"])
        if student is None:
            return None
        spec, live = stage.spec, stage.inputs.get("teacher")
        new = cell.protocol.max_new_tokens
        lengths, _ = self._read(cell, stage, "train", spec.get("limit", 0), new)
        if "max_new_tokens" in spec:  # on-policy text may be as long as the protocol allows
            lengths = replace(lengths, longest=lengths.longest - lengths.response + new)
        pairs = 2 if "pairs" in stage.inputs else 1
        own = _own(cell, stage)
        signals = [source for role, source in stage.inputs.items() if role.startswith("signals")]
        dense = next((source.inputs["teacher"] for source in signals if not source.spec["k"]), None)
        steps, seconds = _length(spec, pairs * spec["batch"] * max(1.0, lengths.response))
        work = TrainingWork(
            student=student,
            steps=steps,
            batch=pairs * -(-spec["batch"] // self._slots.ranks),
            lengths=lengths,
            bf16=spec["precision"] == "bf16",
            lora=spec.get("lora", 0),
            moments_in_8_bits="optimizer" in spec,
            teacher=self._shape(cell, live) if live is not None else None,
            teacher_logits=live is not None or bool(signals),
            pairs=pairs > 1,
            scheduled=own is not None and is_scheduled(own),
            dense=self._shape(cell, dense) if dense is not None else None,
            sampled=spec.get("max_new_tokens", 0),
            ranks=self._slots.ranks,
            sharded=self._slots.shard,
            selects="select" in spec,
        )
        found = resources.training(work, resources.beside_engine(self._device) if "rollouts" in spec else self._device)
        models = 1 + len(spec.get("evaluate_at", ()))
        found = replace(found, seconds=seconds / self._slots.ranks or found.seconds, disk=models * found.disk)
        if select := spec.get("select"):
            once = resources.generation(
                student, select["prompts"], lengths, select["max_new_tokens"], self._device, bf16=work.bf16
            )
            found = replace(found, seconds=found.seconds + select["points"] * once.seconds)
        if stage.name == "teacher":  # its rank is a parameter of the teacher, where a student's is an option
            return replace(found, remedy=found.remedy.replace("--lora ", "lora="))
        return found

    def _shape(self, cell: Cell, model: Stage) -> Shape | None:
        init = compatibility.root(model)
        if "tokenizer" in init.inputs:
            return shapes.scratch_shape(
                init.spec["layers"], init.spec["width"], init.inputs["tokenizer"].spec["vocabulary"]
            )
        known = parameters(HubModel(id=init.job["id"], parameters=self._declared(cell, init)))
        config = compatibility.config_of(init)
        shape = shapes.shape_of(config, known or 0) if config else None
        if shape is None and known and not config.get("is_encoder_decoder"):
            shape = shapes.usual(known)
            size = f"{known / 1e9:.3g} B parameters"
            self.assumed.append(f"{init.job['id']} has the usual shape for {size}: its files are not available")
        said = str(init.spec.get("layers", ""))
        if shape is None or not said:
            return shape
        layers, width = len(set(said.split("+"))) if "+" in said else int(said), init.spec.get("width", shape.inner)
        exact = pruned_parameters(HubModel(**init.job), layers, shape.inner, width)
        if exact is not None:
            self.pruned[exact] = f"{init.owner} after pruning: {exact:,} parameters"
        return shape.pruned(layers, width, exact)

    @staticmethod
    def _declared(cell: Cell, init: Stage) -> float:
        """The number of parameters that a model's alias declares; 0 if it declares none."""
        for chosen in (cell.student, cell.teacher):
            source: Any = chosen.component.model(chosen.params) if chosen.component.model else None
            if isinstance(source, HubModel) and source.id == init.job["id"]:
                return source.parameters
        return 0

    def _read(self, cell: Cell, stage: Stage, split: str, limit: int, new: int) -> tuple[Lengths, int]:
        """Lengths of the prompts of a split and of their responses, and the number of prompts."""
        key = (stage.inputs["data"].key, split, limit, stage.spec.get("batch", cell.protocol.batch))
        of_split = replace(stage, spec={"split": split, "limit": limit})
        try:
            prompts = self._prompts.of(cell, of_split) if self._known(cell, stage) else ()
        except PladBenchError:  # reported where the data is read
            prompts = ()
        if not prompts:
            self.assumed.append(f"prompts of {cell.task.label} have {PROMPT_TOKENS} tokens: its data is not available")
            assumed = Lengths(PROMPT_TOKENS, new, PROMPT_TOKENS + new)
            return assumed, limit or 1000
        if key not in self._lengths:
            self._lengths[key] = self._measure(cell, prompts, new, key[-1])
        lengths, more = self._lengths[key], self._template(cell, stage)
        return replace(lengths, prompt=lengths.prompt + more, longest=lengths.longest + more), len(prompts)

    def _template(self, cell: Cell, stage: Stage) -> float:
        """The tokens that the chat template of the model that reads the prompts adds to each."""
        model = stage.inputs.get("model") or stage.inputs["teacher"]
        text = template_length.added(compatibility.root(model))
        return self._counter(cell)(text) if text else 0.0

    def _known(self, cell: Cell, stage: Stage) -> bool:
        """Whether reading the data needs no request."""
        return cell.task.label in self._data or self._store.find(stage.inputs["data"].key) is not None

    def _measure(self, cell: Cell, prompts: Sequence[Prompt], new: int, batch: int) -> Lengths:
        count = self._counter(cell)
        some = random.Random(0).sample(list(prompts), min(READ, len(prompts)))
        sizes = [(count(p.prompt), min(new, count(p.references[0])) if p.references else new) for p in some]
        return Lengths.of(sizes, batch)

    def _counter(self, cell: Cell) -> Callable[[str], float]:
        def find(key: str) -> Path | None:
            artifact = self._store.find(key)
            return artifact.path if artifact else None

        init = compatibility.root(cell.plan.init)
        if init.key not in self._counters:
            file = compatibility.tokenizer_of(init, find)
            self._counters[init.key] = _counter(compatibility.loaded_tokenizer(file) if file else None)
        return self._counters[init.key]


def _counter(tokenizer: Any) -> Callable[[str], float]:
    """(text) -> its tokens and one more for its end; estimated from its bytes without a tokenizer."""
    if tokenizer is None:
        return lambda text: len(text.encode()) / BYTES_PER_TOKEN
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids) + 1


def _length(spec: Mapping[str, Any], tokens: float) -> tuple[int, float]:
    """The steps of a training, and its device-seconds if a budget says them; at most, where steps use the teacher.

    Args:
        spec: of the training.
        tokens: that a step trains on.
    """
    budget = spec.get("budget", {"kind": "steps"})
    match budget["kind"]:
        case "tokens":
            return math.ceil(budget["amount"] / tokens), 0.0
        case "device-seconds":
            return 1, budget["amount"]
        case "money":
            return 1, 3600 * budget["amount"] / budget["prices"]["device_hour"]
    return spec["steps"], 0.0


# ------------------------------------------------------------------------------------------------------------- devices


def gpu(index: int) -> Device:
    """A GPU of this machine, by its driver's name; its speed is 0 if the name is unknown."""
    asked = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
        mebibytes, _, name = said.strip().partition(", ")
        size = float(mebibytes) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return Device(0, 0, 1, gpu=True)
    known = next((device for part, device in resources.GPUS.items() if part in name), Device(0, 0, 1, gpu=True))
    return replace(known, memory=size)


def cpu(threads: int) -> Device:
    """A slot on this machine's processors, with the typical speed of their instruction set."""
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        said = ""
    speed = next((flops for instructions, flops in CORES.items() if instructions in said), 20e9)
    return Device(memory(), threads * speed, 8e9, gpu=False)


# ------------------------------------------------------------------------------------------------------------ in words


def lines(found: Outlook) -> Iterator[str]:
    """The outlook as text."""
    if not found.parts:
        return
    kind = "GPU" if found.device.gpu else "machine"
    room = f" ({kind}: {_size(found.device.memory)}{_shared(found)})" if found.device.memory else ""
    yield f"Estimate, a stage at a time{room}:"
    for part in found.parts:
        work = part.work
        seconds = f", {_time(work.seconds)} each" if work.seconds else ""
        each = f" of each of {work.ranks} {kind}s" if work.ranks > 1 and found.device.gpu else ""
        shared = " that share the model" if work.sharded else ""
        peak = f"{_size(work.memory)} of memory at the peak{each}{shared}"
        yield f"  {part.name} ({part.count}): {peak}{_how(work)}{seconds}"
    whole = f"{_time(found.seconds)} in all" if found.seconds else "time unknown on this device"
    yield f"  {whole}, {_size(found.disk)} of disk for models and teacher log-probabilities"
    yield from (f"  {line}" for line in found.pruned)
    for line in found.assumed:
        yield f"  assumed: {line}"


def _shared(found: Outlook) -> str:
    return f" for each of the {found.sharers} slots that share it" if found.sharers > 1 else ""


def _how(work: Work) -> str:
    if not work.fits:
        return f", which does not fit{f' (it would with {work.remedy})' if work.remedy else ''}"
    how = [f"{work.micro_batch} sequences at a time"] if work.micro_batch else []
    how += ["activations computed twice"] if work.checkpointing else []
    return f", fits with {' and '.join(how)}" if how else ""


def _size(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {max(1.0, seconds):.0f} s"

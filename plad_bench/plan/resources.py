"""Estimates of a stage's device memory, time and disk space, from model shapes and text lengths, without torch.

Memory of a training, in bytes, for P parameters of which p are trained, L layers of width h with feed-forward width i
and key-value width c, M padded tokens and N response tokens of a micro-batch, and V words:

    4 P + 8 p                   weights in float32; AdamW's two moments
    4 P + 2 p + 6 V h           the same with moments in 8 bits, but for those of the embeddings
    2 P                         under bf16: autocast's copies of the matrices
    2 P' or 4 P'                a live teacher; with dense log-probabilities its output head alone

and the larger of what a step holds in turn. Until the loss is known:

    M L (30 h + 4 c + 8 i)      activations kept for the gradient; (32 h + 8 c + 16 i) in float32
    M L (14 h + 4 c + 6 i)      the same of compiled layers; (24 h + 8 c + 12 i) in float32
    4 N V k                     k tensors of logits, all of them or a chunk: 8, or 16 beside a teacher's, or 4 of a
                                compiled loss; on a CPU, where a loss passes over few rows at a time, 2, or 3 beside
                                a teacher's
    4 V h                       the gradient of the output head, from the first chunk on; while that of another is
                                added, 4 N V and 8 V h instead
    4 N V                       on a CPU, all logits of a pair loss, up to 2 GiB: they are kept for its gradient
    4 p                         gradients of earlier micro-batches, if there are several

and when the weights are updated:

    4 p                         gradients
    8 V h                       a tied embedding's gradient is the sum of two, which are both in memory beside it; on
                                a CPU AdamW's temporary tensors take as much

If N ranks share the student, each has 1/N of what is counted in P and p, and gathers, for V h parameters outside the
layers (2 V h if the head is not tied) and P / L of each layer:

    8 V h                       weights outside the layers and their gradient; 10 V h under bf16
    16 P / L                    two layers, and the gradient of one before and after it is sent; 10 P / L under bf16
    2 P or 4 P                  a copy of the student, where the training generates text

The activations were counted by saved-tensor hooks on Llama shapes; k was fitted to measured peaks, which
tests/plan/test_resources.py holds the estimates against.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plad_bench.contract.memory_policy import (
    COPIES,
    CPU_BUDGET,
    CPU_CHUNK,
    CPU_COPIES,
    CPU_KEPT,
    ENGINE_SHARE,
    GENERATION_BATCH,
    GPU_SHARE,
    SMALL,
    chunk_of,
)
from plad_bench.plan.shapes import Shape

ALONE, BESIDE_A_TEACHER = 8, 16
"""Number of logit tensors that a loss and its gradient hold at the same time."""
COMPILED = 4
"""The same if the loss is compiled."""
CPU_ALONE, CPU_BESIDE_A_TEACHER = 2, 3
"""The same on a CPU, but for the few rows that the loss passes over at a time."""
WORTH_COMPILING = 2e16
"""Floating-point operations of a training on a GPU from which compiling pays: those of about a minute."""
COMPILED_TIME = 0.75
"""Time of a compiled step, relative to one that is not; 0.65 to 0.75 were measured (docs/benchmarks.md)."""
SHARDED_SHARE = 0.9
"""Share of a device that a sharded training may fill: a step that does not fit after all is not divided, but fails."""
RANKS = (2, 4, 8)
"""Numbers of ranks to suggest if a student fits several GPUs."""
LORA = 16
"""LoRA rank to suggest if full fine-tuning does not fit."""
PROCESS = 0.8e9
"""Bytes of a process with torch and transformers on a CPU, 0.4 GB, and of what its allocator keeps for later."""
ENGINE_ON_CPU = 2e9
"""Bytes of a vLLM engine on a CPU, of which 1 GiB is for keys and values."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of a task's prompts and responses in tokens."""

    prompt: float
    """Average length."""
    response: float
    longest: float
    """Length of prompt and response together, padded within a batch."""

    @classmethod
    def of(cls, sizes: Sequence[tuple[float, float]], batch: int) -> Lengths:
        """Average lengths of (prompt, response), and the expected longest of a batch."""
        whole = sorted(prompt + response for prompt, response in sizes)
        return cls(
            prompt=sum(prompt for prompt, _ in sizes) / len(sizes),
            response=sum(response for _, response in sizes) / len(sizes),
            # The expected maximum of a batch: of n values the largest is at the quantile n / (n + 1).
            longest=whole[min(len(whole) - 1, round(len(whole) * batch / (batch + 1)))],
        )


@dataclass(frozen=True)
class Device:
    """The device of a stage."""

    memory: float
    """Bytes; 0 if unknown."""
    flops: float
    """Achieved operations per second; 0 if unknown."""
    bandwidth: float
    """Memory bandwidth in bytes per second."""
    gpu: bool

    @property
    def overhead(self) -> float:
        """Minimum seconds per layer, independent of its size; measured with Llama layers."""
        return 0.7e-3 if self.gpu else 0.4e-3


def beside_engine(device: Device) -> Device:
    """What a vLLM engine that samples beside a training leaves of a device."""
    taken = ENGINE_SHARE * device.memory if device.gpu else ENGINE_ON_CPU
    return replace(device, memory=max(1.0, device.memory - taken)) if device.memory else device


UTILISATION = 0.35
"""Approximate share of a GPU's peak performance that stages reach; 0.40 was measured for kd updates from 8B to 1B."""


def _gpu(gigabytes: float, teraflops: float, terabytes: float) -> Device:
    return Device(gigabytes * 1e9, teraflops * 1e12 * UTILISATION, terabytes * 1e12, gpu=True)


GPUS = {
    "H200": _gpu(141, 989, 4.8),
    "H100": _gpu(80, 989, 3.3),
    "A100": _gpu(80, 312, 1.9),
    "L40": _gpu(48, 362, 0.86),
    "4090": _gpu(24, 165, 1.0),
    "3090": _gpu(24, 71, 0.94),
    "A10": _gpu(24, 125, 0.6),
    "L4": _gpu(24, 121, 0.3),
}
"""Part of a GPU's name -> memory, dense operations per second in bf16 and bandwidth, from the data sheet."""


@dataclass(frozen=True)
class Work:
    """The resources of a stage."""

    memory: float
    """Peak memory in bytes, with all sequences of a batch at once."""
    seconds: float
    """Estimated seconds; 0 if the speed of the device is unknown."""
    compiled: bool = False
    """Whether a training compiles its layers and its loss (`learn/compiled.py`), for which this is the estimate."""
    disk: float = 0
    """Size of its artifact in bytes."""
    micro_batch: int = 0
    """Micro-batch with which it fits; 0 if the whole batch fits."""
    checkpointing: bool = False
    """Whether it fits only with gradient checkpointing."""
    fits: bool = True
    """Whether it fits with these options."""
    remedy: str = ""
    """Options with which it would fit."""
    ranks: int = 1
    """Devices that it takes; memory is that of each."""
    sharded: bool = False
    """Whether they share the student."""


@dataclass(frozen=True)
class TrainingWork:
    """The properties of a training that determine its resources."""

    student: Shape
    steps: int
    batch: int
    """Sequences per step of a rank; a pair has two."""
    lengths: Lengths
    bf16: bool
    lora: int = 0
    moments_in_8_bits: bool = False
    """Whether the optimiser is adamw8bit."""
    teacher: Shape | None = None
    """The teacher's shape, if it runs during training."""
    teacher_logits: bool = False
    """Whether the loss uses the teacher's distributions, live or precomputed."""
    dense: Shape | None = None
    """The teacher's shape, if its hidden states were precomputed and its output head is used during training."""
    sampled: int = 0
    """Length of the responses that the student samples at every step; 0 if it samples none."""
    ranks: int = 1
    """Processes that share a step."""
    sharded: bool = False
    """Whether they share the student."""
    pairs: bool = False
    """Whether the loss is one of pairs, which needs logits again for its gradient."""
    scheduled: bool = False
    """Whether a schedule changes the parameters of the loss, which is then not compiled."""
    selects: bool = False
    """Whether the best checkpoint is chosen by generated responses."""

    def shared_by(self, ranks: int) -> TrainingWork:
        """The same training, its student sharded over a number of ranks."""
        return replace(self, ranks=ranks, sharded=True, batch=-(-self.batch * self.ranks // ranks))


@functools.cache
def training(work: TrainingWork, device: Device) -> Work:
    """The resources of a training, whether it fits the device, and the options with which it would."""
    found = _training(work, device)
    if found.fits:
        return found
    others = {
        "--precision bf16": replace(work, bf16=True),
        **({"--optimizer adamw8bit": replace(work, moments_in_8_bits=True)} if device.gpu else {}),
        f"--lora {LORA}": replace(work, lora=LORA),
        f"--precision bf16 --lora {LORA}": replace(work, bf16=True, lora=LORA),
    }
    remedies = [options for options, other in others.items() if _training(other, device).fits][:1]
    if device.gpu and not work.sharded:
        enough = (n for n in RANKS if n >= work.ranks and _training(work.shared_by(n), device).fits)
        remedies += [f"--ranks {n} --shard" for n in enough][:1]
    return replace(found, remedy=" or ".join(remedies))


def _training(work: TrainingWork, device: Device) -> Work:
    compiled = device.gpu and not work.sharded and _operations(work, 6) >= WORTH_COMPILING
    memory = functools.partial(_training_memory, work, device, compiled=compiled)
    room = device.memory * (SHARDED_SHARE if work.sharded else 1)
    size, checkpointing = work.batch, False
    while room and memory(size, checkpointing=checkpointing) > room:
        if not checkpointing and size // 2 < SMALL:
            checkpointing = True
        elif size == 1:
            break
        else:
            size //= 2
    fits = not room or memory(size, checkpointing=checkpointing) <= room
    micro_batches = -(-work.batch // size)
    started = 3 * work.steps * micro_batches * work.student.layers * device.overhead
    faster = COMPILED_TIME if compiled and not checkpointing else 1  # layers that are read twice are not compiled
    operations = _operations(work, 8 if checkpointing else 6)
    seconds = faster * operations / device.flops + started if device.flops else 0.0
    if work.sampled and device.flops:
        seconds += work.steps * _decoding(work.student, work.batch, work.sampled, device, bf16=work.bf16)
    return Work(
        memory=memory(work.batch, checkpointing=False),
        seconds=seconds,
        compiled=compiled,
        disk=4 * work.student.count,
        micro_batch=size if size < work.batch else 0,
        checkpointing=checkpointing,
        fits=fits,
        ranks=work.ranks,
        sharded=work.sharded,
    )


def _operations(work: TrainingWork, passes: int) -> float:
    """Floating-point operations of a training, with this number per token and parameter of the student's layers."""
    read = work.batch * (work.lengths.prompt + work.lengths.response)
    answered = work.batch * work.lengths.response
    step = passes * read * work.student.body + 6 * answered * work.student.head
    if work.teacher is not None:
        step += 2 * (read * work.teacher.body + answered * work.teacher.head)
    if work.dense is not None:
        step += 2 * answered * work.dense.head
    return work.steps * step


def _training_memory(work: TrainingWork, device: Device, size: int, *, checkpointing: bool, compiled: bool) -> float:
    student, tokens = work.student, size * work.lengths.longest
    trained = student.count
    if work.lora:
        widths = 2 * student.queries + 2 * student.keys + 4 * student.width + 3 * (student.width + student.inner)
        trained = work.lora * student.layers * widths
    embeddings = 0 if work.lora else student.head
    moments = 2 * trained + 6 * embeddings if work.moments_in_8_bits else 8 * trained
    kept, gradients = 4.0 * student.count + moments, 4.0 * trained
    if work.sharded:
        kept, gradients = kept / work.ranks + _gathered(work), gradients / work.ranks
    elif work.bf16:
        kept += 2 * student.body
    layer = _activations(student, bf16=work.bf16, compiled=compiled and not checkpointing)
    activations = tokens * (4 * student.width * student.layers + layer if checkpointing else layer * student.layers)
    of_head = 0 if work.sharded else 4 * embeddings  # a sharded one is among what is gathered
    before = activations + _logits(work, device, size, of_head, compiled=compiled and not work.scheduled)
    before += gradients if size < work.batch else 0  # of earlier micro-batches
    after = gradients + (8 * embeddings if student.tied or not device.gpu else 0)
    held = (work.teacher.count if work.teacher else 0.0) + (work.dense.head if work.dense else 0.0)
    return kept + max(before, after) + held * (2 if work.bf16 else 4) + (0 if device.gpu else PROCESS)


def _activations(shape: Shape, *, bf16: bool, compiled: bool) -> float:
    """Bytes that a layer keeps per token for the gradient."""
    of_width, of_keys, of_inner = {
        (True, False): (30, 4, 8),
        (True, True): (14, 4, 6),
        (False, False): (32, 8, 16),
        (False, True): (24, 8, 12),
    }[bf16, compiled]
    return of_width * shape.width + of_keys * shape.keys + of_inner * shape.inner


def _gathered(work: TrainingWork) -> float:
    """Bytes that a rank gathers: what is outside the layers, layers that run, and a copy that generates."""
    student = work.student
    layer, outside = student.body / student.layers, student.head * (1 if student.tied else 2)
    copy = student.count if work.sampled or work.selects else 0
    return (10 * outside + 10 * layer + 2 * copy) if work.bf16 else (8 * outside + 16 * layer + 4 * copy)


def _logits(work: TrainingWork, device: Device, size: int, of_head: float, *, compiled: bool) -> float:
    """Bytes of a micro-batch's logits, computed at once or in chunks, with the gradients of an output head."""
    row = 4 * work.student.vocabulary
    count, width = int(size * work.lengths.response), work.student.width
    passing = COMPILED if compiled else BESIDE_A_TEACHER if work.teacher_logits else ALONE
    chunk, cached, kept = count, 0, 0
    if not device.gpu:
        cached, kept = CPU_CHUNK // row, min(count, CPU_KEPT // row) if work.pairs else 0
        chunk = chunk_of(count, CPU_BUDGET // (row * CPU_COPIES), width, cached)
    elif device.memory:
        chunk = chunk_of(count, int(device.memory / GPU_SHARE / (row * COPIES)), width)

    last = max(0, min(chunk, count - chunk))  # rows of a chunk after the first; 0 if there is none
    if kept and kept == count:  # the last chunk's logits are gone when the gradient of another comes
        return row * (count - last + chunk) + of_head

    def of(rows: int) -> float:
        if device.gpu:
            return float(row * rows * passing)
        held = CPU_BESIDE_A_TEACHER if work.teacher_logits else CPU_ALONE
        return row * (kept + rows * held + min(rows, cached) * passing)

    later = max(of(last) + of_head, row * (kept + last) + 2 * of_head) if last else 0
    return max(of(chunk), row * (kept + chunk) + of_head, later)


@functools.cache
def generation(shape: Shape, prompts: int, lengths: Lengths, new: int, device: Device, *, bf16: bool) -> Work:
    """The resources for generating `new` tokens per prompt."""
    number, rows = 2 if bf16 else 4, min(prompts, GENERATION_BATCH)
    cache = rows * (lengths.longest - lengths.response + new) * shape.layers * 2 * shape.keys * number
    memory = shape.count * number + cache + rows * shape.vocabulary * 4 * 4 + (0 if device.gpu else PROCESS)
    seconds = 0.0
    if device.flops:
        seconds = 2 * prompts * lengths.prompt * shape.body / device.flops
        seconds += _decoding(shape, prompts, new, device, bf16=bf16)
    return Work(memory=memory, seconds=seconds, fits=not device.memory or memory <= device.memory)


def divided(work: Work, gpus: int, device: Device) -> Work:
    """The same generation or scoring by a model that several GPUs share; one GPU changes nothing."""
    if gpus == 1:
        return work
    memory = work.memory / gpus
    fits = not device.memory or memory <= device.memory
    remedy = "" if fits else work.remedy
    return replace(work, memory=memory, seconds=work.seconds / gpus, fits=fits, remedy=remedy, ranks=gpus, sharded=True)


def with_remedy(work: Work, device: Device) -> Work:
    """The same generation by a teacher; if it does not fit, with the number of GPUs that could share it."""
    enough = (n for n in RANKS if divided(work, n, device).fits)
    return work if work.fits else replace(work, remedy=next((f"--backend vllm --teacher-gpus {n}" for n in enough), ""))


def _decoding(shape: Shape, prompts: int, new: int, device: Device, *, bf16: bool) -> float:
    """Seconds to generate `new` tokens per prompt: the weights are read once per token of a batch."""
    batches = -(-prompts // GENERATION_BATCH)
    weights = (shape.body + shape.head) * (2 if bf16 else 4) / device.bandwidth
    step = max(weights, shape.layers * device.overhead)
    return batches * new * step + 2 * prompts * new * (shape.body + shape.head) / device.flops


def kept(shape: Shape, tokens: float, k: int, *, bf16: bool) -> float:
    """Bytes of a teacher's precomputed log-probabilities of `tokens` response tokens (`learn/teacher_cache.py`).

    These are k + 2 log-probabilities and k ids per token or, with k = 0, hidden states and the output head.
    """
    if k:
        return tokens * (4 * (k + 2) + 4 * k)
    return (tokens * shape.width + shape.head) * (2 if bf16 else 4)


@functools.cache
def scoring(shape: Shape, prompts: int, lengths: Lengths, device: Device, *, bf16: bool) -> Work:
    """The resources for a forward pass over prompts with responses, without gradients."""
    number = 2 if bf16 else 4
    memory = shape.count * number + GENERATION_BATCH * lengths.response * shape.vocabulary * 4
    budget = device.memory / GPU_SHARE if device.gpu and device.memory else CPU_BUDGET
    memory = min(memory, shape.count * number + budget) + (0 if device.gpu else PROCESS)
    read = prompts * (lengths.prompt + lengths.response)
    flops = 2 * (read * shape.body + prompts * lengths.response * shape.head)
    return Work(
        memory=memory,
        seconds=flops / device.flops if device.flops else 0.0,
        fits=not device.memory or memory <= device.memory,
    )

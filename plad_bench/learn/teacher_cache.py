"""Precomputed teacher log-probabilities: how they are written, and how a loss reads them.

For each of N response tokens a file holds one of three:

- the teacher's last hidden state, in the precision that the teacher computes in. The teacher's output head is written
  beside it, and a loss multiplies the states of a chunk by the head: the distributions are the teacher's own, and take
  2 D bytes per token in bf16 instead of the 4 V of log-probabilities;
- the log-probabilities of all tokens, for a teacher whose head `learn/chunked_logits.py` does not know;
- the log-probabilities of k + 2 events that together have probability 1: the k most likely tokens, the label if it is
  none of these, and everything else (the tail). A loss then reads the student's distribution over the same events.
  This is a coarser view of both distributions and approximates neither: a divergence over the events is at most the
  full one and never negative, and with k = V it is the full one. The softmax temperature of a method acts on the
  events.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.learn.chunked_logits import (
    Head,
    Predictions,
    Predictor,
    chunk_size,
    existing,
    parts,
    response_states,
    vocabulary_size,
)
from plad_bench.learn.divergences import log_softmax
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.sequences import Batch, Tokens, collate, micro_batches

TOKENIZER = "tokenizer"
"""The directory beside the files with the teacher's tokenizer and prompt format."""
BATCH = 64
"""Sequences that the teacher reads at a time."""
_ABOUT, _OFFSETS, _HASHES, _LOGPROBS, _IDS = "signals.json", "offsets.npy", "hashes.npy", "logprobs.npy", "ids.npy"
_STATES, _HEAD = "states.npy", "head.safetensors"

_log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------ what a loss compares with


def exchanged(values: Tensor, ends: tuple[int, int] | None) -> Tensor:
    """A teacher's values of all tokens, [..., V], with the end tokens of student and teacher exchanged.

    Then both models have the same token for the end of a response.

    Raises:
        StageError: if the teacher has no value for one of them.
    """
    if ends is None or ends[0] == ends[1]:
        return values
    if max(ends) >= values.shape[-1]:
        raise StageError(
            f"the teacher has {values.shape[-1]} tokens, and the student ends responses with token {ends[0]}",
            "Use the same template for both: template_file=FILE, or template=none.",
        )
    values = values.clone()
    values[..., list(ends)] = values[..., list(reversed(ends))]
    return values


@dataclass(frozen=True)
class Whole:
    """A teacher's logits over its vocabulary."""

    predictions: Predictions
    ends: tuple[int, int] | None = None
    """As in `exchanged`."""

    @property
    def chunk(self) -> int:
        """Maximum number of tokens per chunk."""
        return self.predictions.chunk

    def of(self, part: slice) -> Whole:
        """The same of some tokens, whose logits are computed."""
        with torch.no_grad():
            return Whole(existing(self.predictions.logits(part)), self.ends)

    def meet(self, part: slice, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student logits, teacher logits and labels of some tokens, over the vocabulary that both share.

        Vocabularies that differ only in padding begin alike; labels are never in the rest.
        """
        with torch.no_grad():
            teacher = exchanged(self.predictions.logits(part).to(student.device), self.ends)
        shared = min(student.shape[-1], teacher.shape[-1])
        return student[:, :shared], teacher[:, :shared], labels


@dataclass(frozen=True)
class Aligned:
    """The logits of a teacher with another tokenizer; its t-th response token is compared with the student's t-th."""

    predictions: Predictions
    places: Tensor
    """[N], the teacher's token for each of the student's; -1 if the teacher has fewer tokens."""

    @property
    def chunk(self) -> int:
        """Maximum number of tokens per chunk."""
        return self.predictions.chunk

    def of(self, part: slice) -> Aligned:
        """The same of some tokens, whose logits are computed."""
        places = self.places[part]
        with torch.no_grad():
            logits = self.predictions.head(self.predictions.states[places.clamp_min(0)])
        return Aligned(existing(logits), torch.arange(len(places), device=places.device).masked_fill(places < 0, -1))

    def meet(self, part: slice, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student logits [n, V], teacher logits [n, V'] with V' >= V, and labels of some tokens.

        Where the teacher has no token left, the student takes its place, so that the distance is zero.
        """
        places = self.places[part]
        with torch.no_grad():
            teacher = self.predictions.head(self.predictions.states[places.clamp_min(0)]).to(student)
        width = max(student.shape[-1], teacher.shape[-1])
        own, teacher = (
            functional.pad(z, (0, width - z.shape[-1]), value=-torch.inf) for z in (student.detach(), teacher)
        )
        return student, torch.where((places < 0)[:, None], own, teacher), labels


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """Indices for Aligned, [N], from the response positions of B texts under both tokenizers, [B, T] and [B, T']."""
    position, lengths = student.cumsum(1) - 1, teacher.sum(1)
    places = (lengths.cumsum(0) - lengths)[:, None] + position
    return torch.where(position < lengths[:, None], places, -1)[student]


@dataclass(frozen=True)
class Events:
    """A teacher's log-probabilities of k + 2 events for each of N tokens."""

    logprobs: Tensor
    """[N, k + 2]: the most likely tokens, the label (-inf if it is one of them), the tail."""
    ids: Tensor
    """[N, k], the most likely tokens."""
    vocabulary: int = 0
    """Size of the vocabulary that the tail completes; 0: the student's."""

    @property
    def chunk(self) -> int:
        """Maximum number of tokens per chunk."""
        return max(1, len(self.ids))

    def of(self, part: slice) -> Events:
        """The same of some tokens."""
        return Events(self.logprobs[part], self.ids[part], self.vocabulary)

    def meet(self, part: slice, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student and teacher log-probabilities of the events, [n, k + 2], and the labels' indices among them, [n].

        The tail excludes the padding of both vocabularies. Tokens beyond the student's vocabulary are no events.
        """
        student = student[:, : self.vocabulary or None]
        ids = self.ids[part]
        beyond = max(0, int(ids.max()) + 1 - student.shape[-1]) if ids.numel() else 0
        ids = ids.to(student.device)
        own = of_events(functional.pad(log_softmax(student), (0, beyond), value=-torch.inf), ids, labels)
        teacher = self.logprobs[part].to(own).masked_fill(own == -torch.inf, -torch.inf)
        among = ids == labels[:, None]
        places = torch.where(among.any(-1), among.int().argmax(-1), ids.shape[-1])
        return own, teacher, places


def of_events(logprobs: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the events, [N, k + 2], from those of all tokens, [N, V]."""
    lowest = torch.finfo(logprobs.dtype).min
    label = logprobs.gather(1, labels[:, None])
    label = label.masked_fill((ids == labels[:, None]).any(-1, keepdim=True), -torch.inf)
    # Not -inf: an empty tail's sum would have NaN as its gradient.
    rest = logprobs.scatter(1, ids, lowest).scatter(1, labels[:, None], lowest)
    return torch.cat([logprobs.gather(1, ids), label, rest.logsumexp(-1, keepdim=True)], 1)


# ---------------------------------------------------------------------------------------------------------- the files


Put = Callable[[np.ndarray, np.ndarray, np.ndarray | None], None]
"""Receives n response tokens: their indices [n] among those of all sequences; hidden states, [n, D], with bf16 as
int16, or log-probabilities, [n, V] or [n, k + 2] as in `Events`; and the k most likely tokens, [n, k]."""


class TeacherReader(Protocol):
    """A teacher that reads text and gives hidden states or log-probabilities of its tokens."""

    @property
    def vocabulary(self) -> int:
        """Size of its vocabulary."""

    @property
    def head(self) -> Head | None:
        """Its output head, if it gives hidden states; None if it gives log-probabilities."""

    def read(self, sequences: Sequence[Tokens], k: int, put: Put, progress: Callable[[int, int], None]) -> None:
        """Store every response token, in any order, repeated ones too; report the sequences read and their total."""


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher that runs in this process."""

    predictor: Predictor
    pad: int
    """The padding token."""
    device: str
    memory_policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """How to reduce memory."""
    words: int = 0
    """Tokens of its tokenizer: logits beyond are padding and left out. 0: all logits count."""
    head: Head | None = None
    """Its output head, to give hidden states; None to give log-probabilities."""

    @property
    def vocabulary(self) -> int:
        """Its logits per token, without padding."""
        size = vocabulary_size(self.predictor.model)
        return min(size, self.words or size)

    def read(self, sequences: Sequence[Tokens], k: int, put: Put, progress: Callable[[int, int], None]) -> None:
        """As in TeacherReader.

        Raises:
            StageError: if a single sequence exceeds the memory.
        """
        offsets, done = offsets_of(sequences), 0
        for indices in micro_batches(sequences, BATCH):

            def work(size: int, indices: list[int] = indices) -> None:
                for some in slices(indices, size):
                    places = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in some])
                    self._read(collate([sequences[i] for i in some], self.pad, self.device), places, k, put)

            fit(work, len(indices), self.memory_policy, what="the teacher reading one text")
            done += len(indices)
            progress(done, len(sequences))

    @torch.no_grad()
    def _read(self, batch: Batch, places: np.ndarray, k: int, put: Put) -> None:
        if self.head is not None:
            put(places, _bits(response_states(self.predictor.model, batch).cpu()).numpy(), None)
            return
        predictions, labels = self.predictor.constant(batch), batch.labels[:, batch.start :][batch.valid]
        for part in parts(len(labels), predictions.chunk):
            found, ids = log_softmax(predictions.logits(part)[:, : self.vocabulary]), None
            if k:
                likeliest = found.topk(k).indices
                found, ids = of_events(found, likeliest, labels[part]), likeliest.int().cpu().numpy()
            put(places[part], found.cpu().numpy(), ids)


def head_of(predictor: Predictor, sequences: Sequence[Tokens], pad: int, device: str) -> Head | None:
    """A teacher's output head, if it can be written; None and a warning if log-probabilities have to be."""
    first = [sequence for sequence in sequences if sequence.response][:1]
    head = predictor.head(collate(first, pad, device)) if first else None
    if head is not None and isinstance(head.linear, nn.Linear):
        return head
    size, kind = 4 * vocabulary_size(predictor.model), type(predictor.model).__name__
    _log.warning("unrecognised LM head of %s; storing full log-probabilities, %d bytes per token", kind, size)
    return None


def words(tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Tokens]) -> int:
    """The number of tokens that a tokenizer has or texts use: these are no padding."""
    said = (token for sequence in sequences for token in sequence.response)
    return max([*tokenizer.get_vocab().values(), *said]) + 1


def offsets_of(sequences: Sequence[Tokens]) -> np.ndarray:
    """The index of each sequence's first response token among those of all sequences, and their number."""
    return np.cumsum([0, *(len(sequence.response) for sequence in sequences)])


def write(  # noqa: PLR0917  what a teacher says of which sequences, to where
    directory: Path,
    teacher: TeacherReader,
    sequences: Sequence[Tokens],
    k: int,
    tokenizer: str,
    progress: Callable[[int, int], None],
    context: int = 0,
) -> dict[str, float]:
    """Write what the teacher says of all sequences, each once; return the number of tokens and bytes.

    Args:
        directory: the directory to write to.
        teacher: the reader of the sequences.
        sequences: the sequences.
        k: number of most likely tokens to keep; 0 keeps the whole distribution: hidden states if the teacher has a
            head, otherwise the log-probability of every token.
        tokenizer: hash of the sequences' tokenizer.
        progress: (sequences done, sequences in total).
        context: the context to which sequences were truncated; 0: unknown.

    Raises:
        StageError: if the disk is too small for the files, or the teacher cannot read a sequence.
    """
    k = min(k, teacher.vocabulary)
    unique = {digest(sequence): sequence for sequence in sequences}
    offsets = offsets_of(list(unique.values()))
    tokens, weights = int(offsets[-1]), {} if teacher.head is None else _weights(teacher.head, teacher.vocabulary)
    about = {"k": k, "vocabulary": teacher.vocabulary, "tokenizer": tokenizer, "context": context}
    name, width, dtype = _LOGPROBS, k + 2 if k else teacher.vocabulary, torch.float32
    if teacher.head is not None:
        name, (_, width), dtype = _STATES, weights["weight"].shape, weights["weight"].dtype
        about["head"] = {"scale": teacher.head.scale, "cap": teacher.head.cap}
    _expect_room(directory, tokens * (dtype.itemsize * width + 4 * k) + sum(w.nbytes for w in weights.values()))
    np.save(directory / _OFFSETS, offsets)
    np.save(directory / _HASHES, np.frombuffer(b"".join(unique), dtype=np.uint8).reshape(-1, 32))
    if weights:
        save_file(weights, directory / _HEAD)
    kind = _bits(torch.empty(0, dtype=dtype)).numpy().dtype
    values = np.lib.format.open_memmap(directory / name, mode="w+", dtype=kind, shape=(tokens, width))
    ids = np.lib.format.open_memmap(directory / _IDS, mode="w+", dtype=np.int32, shape=(tokens, k)) if k else None

    def put(places: np.ndarray, said: np.ndarray, likeliest: np.ndarray | None) -> None:
        values[places] = said
        if ids is not None:
            ids[places] = likeliest

    teacher.read(list(unique.values()), k, put, progress)
    values.flush()
    if ids is not None:
        ids.flush()
    (directory / _ABOUT).write_text(json.dumps(about))
    size = sum(file.stat().st_size for file in directory.iterdir())
    return {"teacher_tokens_scored": float(tokens), "signals_bytes": float(size)}


def _bits(values: Tensor) -> Tensor:
    """Values as NumPy can hold them: bf16 as int16."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


def _weights(head: Head, vocabulary: int) -> dict[str, Tensor]:
    """The weight [V, D] of a head and, if it has one, its bias [V], without padding."""
    return {name: p.detach()[:vocabulary].contiguous() for name, p in head.linear.named_parameters()}


def _loaded(path: Path, device: str, scale: float, cap: float | None) -> Head:
    """A head with the weights of a file."""
    weights = load_file(path, device=device)
    words, width = weights["weight"].shape
    with torch.device("meta"):
        linear = nn.Linear(width, words, bias="bias" in weights)
    linear.load_state_dict(weights, assign=True)
    return Head(linear.requires_grad_(False), scale, cap)  # noqa: FBT003  torch's own signature


class TeacherCache:
    """Precomputed teacher log-probabilities of many sequences, in memory-mapped files."""

    def __init__(self, directory: Path, tokenizer: str, device: str = "cpu") -> None:
        """Open a directory; a teacher's output head is loaded to the device.

        Raises:
            StageError: if the teacher's tokenizer differs from this one.
        """
        about = json.loads((directory / _ABOUT).read_text())
        if about["tokenizer"] != tokenizer:
            raise StageError("the precomputed teacher log-probabilities belong to another tokenizer than the student's")
        self.k: int = about["k"]
        self.vocabulary: int = about["vocabulary"]
        self.context: int = about.get("context", 0)
        """The context to which sequences were truncated; 0: unknown."""
        self.device = torch.device(device)
        self.head = _loaded(directory / _HEAD, device, **about["head"]) if "head" in about else None
        """The teacher's output head, if hidden states were written."""
        self.values = np.load(directory / (_STATES if self.head else _LOGPROBS), mmap_mode="r")
        """[tokens, D] hidden states, or log-probabilities: [tokens, V] or [tokens, k + 2]."""
        self.ids = np.load(directory / _IDS, mmap_mode="r") if self.k else None
        offsets, hashes = np.load(directory / _OFFSETS), np.load(directory / _HASHES)
        self.offsets = {hashes[i].tobytes(): int(offsets[i]) for i in range(len(hashes))}

    def target(self, sequences: Sequence[Tokens]) -> Whole | Events | None:
        """The teacher's distributions at the response tokens of some sequences; None if any sequence is missing."""
        ends = sequences[0].ends
        starts = [self.offsets.get(digest(s.teacher if s.ends and s.teacher else s)) for s in sequences]
        spans = [
            np.arange(start, start + len(sequence.response))
            for start, sequence in zip(starts, sequences, strict=True)
            if start is not None
        ]
        if len(spans) < len(sequences):
            return None
        rows = np.concatenate(spans)
        if self.ids is None:
            chunk = chunk_size((len(rows), self.values.shape[1]), self.vocabulary, self.device)
            return Whole(Predictions(torch.from_numpy(rows), self._logits, chunk), ends)
        ids = torch.from_numpy(self.ids[rows]).long()
        if ends is not None:
            ids = torch.where(ids == ends[0], ends[1], torch.where(ids == ends[1], ends[0], ids))
        return Events(self._read(torch.from_numpy(rows)), ids, self.vocabulary)

    def _read(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.values[rows.numpy()])

    def _logits(self, rows: Tensor) -> Tensor:
        """Logits, or log-probabilities, of some tokens, [n, V]."""
        values = self._read(rows)
        if self.head is None:
            return values
        states = values.view(torch.bfloat16) if values.dtype == torch.int16 else values
        return self.head(states.to(self.device))


def digest(sequence: Tokens) -> bytes:
    """sha256 of a prompt and response, as token ids."""
    return hashlib.sha256(json.dumps([sequence.prompt, sequence.response]).encode()).digest()


def _expect_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise StageError(
            f"the teacher's log-probabilities take {needed / 1e9:.1f} GB, and the store has {free / 1e9:.1f} GB left",
            "Use --teacher-logprobs top-64 or live, or another --store.",
        )

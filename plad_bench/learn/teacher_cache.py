"""Teacher distributions that were computed once: how they are written, and how a loss reads them.

For each of N response tokens a file holds either all log-probabilities or those of k + 2 events that together are
certain: the k likeliest tokens, the token that was said if it is none of these, and everything else (the tail). A loss
then sees the student's distribution over the same events. That is a coarser view of both, never an approximation of
one: a divergence of it is that of the events, at most the full one and never negative, and with k = V it is the full
one. A softmax temperature, where a method has one, acts on the events.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.learn.chunked_logits import Predictions, Predictor, parts, vocabulary_size
from plad_bench.learn.divergences import log_softmax
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.sequences import Batch, Tokens, collate, micro_batches

TOKENIZER = "tokenizer"
"""The directory beside the files that holds the teacher's tokenizer, with how it is given prompts."""
BATCH = 64
"""Sequences that the teacher reads at a time."""
_ABOUT, _OFFSETS, _HASHES, _LOGPROBS, _IDS = "signals.json", "offsets.npy", "hashes.npy", "logprobs.npy", "ids.npy"


# ------------------------------------------------------------------------------------------ what a loss compares with


def exchanged(values: Tensor, ends: tuple[int, int] | None) -> Tensor:
    """A teacher's values of all tokens, [..., V], with those of the student's and of the teacher's end token exchanged.

    So the two mean the same event, the end of the response.

    Raises:
        StageError: if the teacher has no value for one of them.
    """
    if ends is None or ends[0] == ends[1]:
        return values
    if max(ends) >= values.shape[-1]:
        raise StageError(
            f"the teacher has {values.shape[-1]} tokens, and the student ends its responses with token {ends[0]}",
            "Give both the same template: template_file=FILE, or template=none.",
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
        """How many tokens may be met at a time."""
        return self.predictions.chunk

    def meet(self, part: slice, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student logits, teacher logits and labels of some tokens, over what both vocabularies share.

        Vocabularies that differ only in padding share a beginning; what lies beyond it is never a label.
        """
        with torch.no_grad():
            teacher = exchanged(self.predictions.logits(part).to(student.device), self.ends)
        shared = min(student.shape[-1], teacher.shape[-1])
        return student[:, :shared], teacher[:, :shared], labels


@dataclass(frozen=True)
class Aligned:
    """The logits of a teacher that spells text with other tokens, of which the t-th goes with the student's t-th."""

    predictions: Predictions
    places: Tensor
    """[N], which of the teacher's tokens goes with each of the student's; -1 where its spelling is shorter."""

    @property
    def chunk(self) -> int:
        """How many tokens may be met at a time."""
        return self.predictions.chunk

    def meet(self, part: slice, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student logits [n, V], teacher logits [n, V'] with V' >= V, and labels of some tokens.

        Where the teacher has no token left it is the student itself: there is no distance between them.
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
    """Places of Aligned, [N], from where the response tokens of B texts are in both spellings, [B, T] and [B, T']."""
    position, lengths = student.cumsum(1) - 1, teacher.sum(1)
    places = (lengths.cumsum(0) - lengths)[:, None] + position
    return torch.where(position < lengths[:, None], places, -1)[student]


@dataclass(frozen=True)
class Events:
    """A teacher's log-probabilities of k + 2 events for each of N tokens."""

    logprobs: Tensor
    """[N, k + 2]: the likeliest tokens, the label (-inf where it is one of them), the tail."""
    ids: Tensor
    """[N, k], the likeliest tokens."""
    vocabulary: int = 0
    """Of how many tokens the tail has the rest; 0: of all that the student knows."""

    @property
    def chunk(self) -> int:
        """How many tokens may be met at a time."""
        return max(1, len(self.ids))

    def meet(self, part: slice, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Student and teacher log-probabilities of the events, [n, k + 2], and the labels' places among them, [n].

        The padding of neither vocabulary is in the tail. A token beyond the student's is no event of either.
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
    """Log-probabilities of the events of Signals, [N, k + 2], from those of all tokens, [N, V]."""
    lowest = torch.finfo(logprobs.dtype).min
    label = logprobs.gather(1, labels[:, None])
    label = label.masked_fill((ids == labels[:, None]).any(-1, keepdim=True), -torch.inf)
    # Not -inf: where nothing is left over the sum would have no gradient but NaN.
    rest = logprobs.scatter(1, ids, lowest).scatter(1, labels[:, None], lowest)
    return torch.cat([logprobs.gather(1, ids), label, rest.logsumexp(-1, keepdim=True)], 1)


# ---------------------------------------------------------------------------------------------------------- the files


Put = Callable[[np.ndarray, np.ndarray, np.ndarray | None], None]
"""Takes what is said of n response tokens: their places [n] among those of all sequences; log-probabilities, [n, V], or
those of the events of `Events`, [n, k + 2]; and then the k likeliest tokens, [n, k]."""


class TeacherReader(Protocol):
    """A teacher that reads text and says what it would have said."""

    @property
    def vocabulary(self) -> int:
        """How many tokens it tells apart."""

    def read(self, sequences: Sequence[Tokens], k: int, put: Put, progress: Callable[[int, int], None]) -> None:
        """Put down every response token, be it more than once, in any order; tell of sequences read and of all."""


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher that is loaded here."""

    predictor: Predictor
    pad: int
    """A token to pad with."""
    device: str
    memory_policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """How memory is spared."""
    words: int = 0
    """How many tokens its tokenizer knows: logits beyond are padding, and in no distribution. 0: all that it has."""

    @property
    def vocabulary(self) -> int:
        """Its logits per token, without padding."""
        size = vocabulary_size(self.predictor.model)
        return min(size, self.words or size)

    def read(self, sequences: Sequence[Tokens], k: int, put: Put, progress: Callable[[int, int], None]) -> None:
        """As in TeacherReader.

        Raises:
            StageError: if the device has no room for one sequence.
        """
        offsets, done = offsets_of(sequences), 0
        for indices in micro_batches(sequences, BATCH):

            def work(size: int, indices: list[int] = indices) -> None:
                for some in slices(indices, size):
                    places = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in some])
                    self._read(collate([sequences[i] for i in some], self.pad, self.device), places, k, put)

            fit(work, len(indices), self.memory_policy, what="the teacher's reading of one text")
            done += len(indices)
            progress(done, len(sequences))

    @torch.no_grad()
    def _read(self, batch: Batch, places: np.ndarray, k: int, put: Put) -> None:
        predictions, labels = self.predictor.constant(batch), batch.labels[:, batch.start :][batch.valid]
        for part in parts(len(labels), predictions.chunk):
            found, ids = log_softmax(predictions.logits(part)[:, : self.vocabulary]), None
            if k:
                likeliest = found.topk(k).indices
                found, ids = of_events(found, likeliest, labels[part]), likeliest.int().cpu().numpy()
            put(places[part], found.cpu().numpy(), ids)


def words(tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Tokens]) -> int:
    """How many tokens a tokenizer knows, or texts say beside: these are no padding."""
    said = (token for sequence in sequences for token in sequence.response)
    return max([*tokenizer.get_vocab().values(), *said]) + 1


def offsets_of(sequences: Sequence[Tokens]) -> np.ndarray:
    """Where the response tokens of each sequence begin among those of all, and their number."""
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
    """Write the teacher's signals of all the sequences, each once, and return their number of tokens and bytes.

    Args:
        directory: where.
        teacher: who reads them.
        sequences: what it reads.
        k: how many of the likeliest tokens are kept; 0 keeps the log-probability of every token.
        tokenizer: hash of the tokenizer that the sequences belong to.
        progress: told of sequences done and of all.
        context: to how many tokens the sequences were cut; 0 says nothing of it.

    Raises:
        StageError: if the disk has no room for the files, or the teacher cannot read.
    """
    k = min(k, teacher.vocabulary)
    unique = {digest(sequence): sequence for sequence in sequences}
    offsets = offsets_of(list(unique.values()))
    tokens, width = int(offsets[-1]), k + 2 if k else teacher.vocabulary
    _expect_room(directory, tokens * (4 * width + 4 * k))
    np.save(directory / _OFFSETS, offsets)
    np.save(directory / _HASHES, np.frombuffer(b"".join(unique), dtype=np.uint8).reshape(-1, 32))
    logprobs = np.lib.format.open_memmap(directory / _LOGPROBS, mode="w+", dtype=np.float32, shape=(tokens, width))
    ids = np.lib.format.open_memmap(directory / _IDS, mode="w+", dtype=np.int32, shape=(tokens, k)) if k else None

    def put(places: np.ndarray, said: np.ndarray, likeliest: np.ndarray | None) -> None:
        logprobs[places] = said
        if ids is not None:
            ids[places] = likeliest

    teacher.read(list(unique.values()), k, put, progress)
    logprobs.flush()
    if ids is not None:
        ids.flush()
    about = {"k": k, "vocabulary": teacher.vocabulary, "tokenizer": tokenizer, "context": context}
    (directory / _ABOUT).write_text(json.dumps(about))
    size = sum(file.stat().st_size for file in directory.iterdir())
    return {"teacher_tokens_scored": float(tokens), "signals_bytes": float(size)}


class Signals:
    """The signals of many sequences, read from memory-mapped files."""

    def __init__(self, directory: Path, tokenizer: str) -> None:
        """Open a directory.

        Raises:
            StageError: if the teacher's tokenizer is another than this one.
        """
        about = json.loads((directory / _ABOUT).read_text())
        if about["tokenizer"] != tokenizer:
            raise StageError("the teacher's signals are of another tokenizer than the student's")
        self.k: int = about["k"]
        self.vocabulary: int = about["vocabulary"]
        self.context: int = about.get("context", 0)
        """To how many tokens sequences were cut; 0 where nobody said."""
        self.logprobs = np.load(directory / _LOGPROBS, mmap_mode="r")
        self.ids = np.load(directory / _IDS, mmap_mode="r") if self.k else None
        offsets, hashes = np.load(directory / _OFFSETS), np.load(directory / _HASHES)
        self.offsets = {hashes[i].tobytes(): int(offsets[i]) for i in range(len(hashes))}

    def target(self, sequences: Sequence[Tokens]) -> Whole | Events | None:
        """What the teacher says of the response tokens of some sequences; None if any of them is not here."""
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
            return Whole(Predictions(torch.from_numpy(rows), self._read, max(1, len(rows))), ends)
        ids = torch.from_numpy(self.ids[rows]).long()
        if ends is not None:
            ids = torch.where(ids == ends[0], ends[1], torch.where(ids == ends[1], ends[0], ids))
        return Events(self._read(torch.from_numpy(rows)), ids, self.vocabulary)

    def _read(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.logprobs[rows.numpy()])


def digest(sequence: Tokens) -> bytes:
    """sha256 of a prompt and response, as token ids."""
    return hashlib.sha256(json.dumps([sequence.prompt, sequence.response]).encode()).digest()


def _expect_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise StageError(
            f"the teacher's signals take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in the store",
            "Choose --teacher-logprobs top-64 or live, or another --store.",
        )

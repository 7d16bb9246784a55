"""Tiny models, a small tokenizer, and a world of artifacts in which a stage function runs in a blink."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.registry import Registry
from plad_bench.execute.stages import files
from plad_bench.execute.store import Artifact
from plad_bench.execute.worker import Context, stage_function

WORDS = [
    "red",
    "blue",
    "green",
    "old",
    "new",
    "small",
    "great",
    "house",
    "river",
    "garden",
    "bridge",
    "tower",
    "walk",
    "sees",
    "finds",
    "the",
    "a",
    "of",
    "and",
    "near",
]


def sentence(seed: int, words: int) -> str:
    """`words` words, another text for each seed."""
    return " ".join(WORDS[(seed * 7 + i * (3 + seed % 5)) % len(WORDS)] for i in range(words))


def byte_level_bpe(
    texts: Iterable[str], vocabulary: int, special: tuple[str, ...] = (), *, ignore_merges: bool = False
) -> Any:
    """A byte-level BPE trained on texts, its special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


@functools.cache
def _trained() -> Any:
    from tokenizers import processors

    made = byte_level_bpe([sentence(i, 12) for i in range(20)], 300, ("<s>", "</s>", "<pad>"))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made.to_str()


def tokenizer(*, pad: str = "<pad>", template: str | None = None) -> Any:
    """A byte-level BPE of 300 tokens that puts <s> before a text."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()), bos_token="<s>", eos_token="</s>", pad_token=pad
    )
    made.chat_template = template
    return made


def llama(seed: int = 0, vocabulary: int = 300, **more: Any) -> Any:
    """A Llama of one layer with random weights, in eval mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, **{**sizes, "num_key_value_heads": 2, **_common(more)})
    return _seeded(seed, LlamaForCausalLM, config)


def gpt2(seed: int = 0, vocabulary: int = 300, dropout: float = 0.0, **more: Any) -> Any:
    """A GPT-2 of one layer: learned absolute positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **_common(more),
    )
    return _seeded(seed, GPT2LMHeadModel, config)


def neox(seed: int = 0, vocabulary: int = 300, **more: Any) -> Any:
    """A GPT-NeoX of one layer."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        **_common(more),
    )
    return _seeded(seed, GPTNeoXForCausalLM, config)


ARCHITECTURES = {"llama": llama, "gpt2": gpt2, "neox": neox}


def _common(more: dict[str, Any]) -> dict[str, Any]:
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return {"max_position_embeddings": 128, "initializer_range": 0.3, **ends, **more}


def _seeded(seed: int, kind: Any, config: Any) -> Any:
    import torch

    torch.manual_seed(seed)
    return kind(config).eval()


@functools.cache
def registry() -> Registry:
    """The installed plugins."""
    return Registry.load()


def context(directory: Path, *, name: str = "stage", **given: Any) -> Context:
    """What a stage function is given, its files in `directory`."""
    out, partial = directory / name / "out", directory / name / "partial"
    out.mkdir(parents=True, exist_ok=True)
    partial.mkdir(parents=True, exist_ok=True)
    nothing: dict[str, Any] = {"spec": {}, "job": {}, "inputs": {}, "device": "cpu"}
    return Context(
        **{**nothing, "registry": registry(), **given},
        out=out,
        partial=partial,
        counts={},
        cost={},
        notes={},
        _progress=directory / name / "progress",
    )


def named(kind: str, name: str, **params: Any) -> dict[str, Any]:
    """A component as a job names it."""
    return {"kind": kind, "name": name, "params": params}


@dataclass
class World:
    """Twelve prompts with references, to train and validate on; a student, a teacher, responses of both, and pairs."""

    directory: Path
    prompts: int = 12
    inputs: dict[str, Artifact] = field(default_factory=dict)
    runs: int = 0
    last: Context | None = None
    """What the last stage was given."""

    def __post_init__(self) -> None:
        ids = [f"example-{i:02d}" for i in range(self.prompts)]
        rows = [
            files.Prompt(
                id=id_,
                split=split,
                prompt=sentence(i, 2 + i % 5),
                references=(sentence(i + 50, 3 + i % 4), sentence(i + 60, 2 + i % 6)),
                meta={},
            )
            for split in ("train", "validation")
            for i, id_ in enumerate(ids)
        ]
        files.write_prompts(self._place("data"), rows, ["train", "validation"])
        self.model("model", llama(seed=1))
        self.model("teacher", llama(seed=2))
        self.responses("teach", {id_: sentence(i + 100, 2 + i % 5) for i, id_ in enumerate(ids)})
        self.responses("sample", {id_: sentence(i + 203, 3 + i % 3) for i, id_ in enumerate(ids)})
        self.inputs["pairs"] = self.run("pairs", {}, job={"builder": named("pair builder", "teacher-over-student")})

    def _place(self, role: str) -> Path:
        path = self.directory / role
        path.mkdir(parents=True, exist_ok=True)
        self.inputs[role] = Artifact(path, {"key": role, "document": {"stage": role, "spec": {}}})
        return path

    def model(self, role: str, model: Any, its_tokenizer: Any = None) -> None:
        """Put a model in a role."""
        from plad_bench.learn.models import save

        save(model, its_tokenizer or tokenizer(), self._place(role) / files.MODEL)

    def responses(self, role: str, texts: dict[str, str]) -> None:
        """Put responses in a role, tokenised by the tiny tokenizer."""
        from plad_bench.contract.examples import Response
        from plad_bench.learn.sequences import Encoder

        encoder = Encoder(tokenizer(), 128)
        rows = []
        for id_, text in texts.items():
            ids = tuple(encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
            row = files.response_row(Response(text=text, ids=ids, tokenizer=encoder.hash))
            rows.append({"id": id_, "responses": [row]})
        files.write_lines(self._place(role) / files.RESPONSES, rows)

    def run(self, operation: str, spec: dict[str, Any], *, job: Any = None, name: str = "", **given: Any) -> Artifact:
        """Run a stage on all there is, in this process."""
        self.runs += 1
        made = context(
            self.directory,
            name=name or f"{operation}-{self.runs}",
            spec=spec,
            job=job or {},
            inputs=self.inputs,
            **given,
        )
        self.last = made
        stage_function(operation)(made)
        facts = {"counts": made.counts, "cost": made.cost, "notes": made.notes}
        return Artifact(made.out, {"key": operation, "document": {"stage": operation, "spec": spec}, **facts})

    def train(self, method: str, *, name: str = "", params: Any = None, **spec: Any) -> Artifact:
        """Train the student by a method."""
        memory_policy = MemoryPolicy(**{key: spec.pop(key) for key in ("micro_batch", "checkpointing") if key in spec})
        given = {"memory_policy": memory_policy, **{key: spec.pop(key) for key in ("device",) if key in spec}}
        usual = {"steps": 3, "lr": 1e-3, "batch": 6, "seed": 0, "precision": "float32"}
        job = {"method": named("method", method, **(params or {}))}
        return self.run("train", {**usual, **spec}, job=job, name=name, **given)


def publish(directory: Path, model: Any, its_tokenizer: Any, **generation: Any) -> None:
    """Write the files of a published model, its generation settings among them."""
    model.save_pretrained(directory)
    its_tokenizer.save_pretrained(directory)
    if generation:
        file = directory / "generation_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **generation}))


def weights(artifact: Artifact) -> dict[str, Any]:
    """The tensors of a trained model."""
    from safetensors.torch import load_file

    return load_file(artifact.path / files.MODEL / "model.safetensors")


def curve(artifact: Artifact) -> list[dict[str, float]]:
    """The training curve of an artifact."""
    return [json.loads(line) for line in (artifact.path / files.CURVE).read_text().splitlines()]


def same_training(start: dict[str, Any], one: dict[str, Any], other: dict[str, Any], *, share: float = 0.01) -> None:
    """Assert that two trainings of the same weights ended together, but for a share of the way that they went.

    Single weights say nothing: of a gradient that is mere rounding Adam makes a step like any other.
    """
    import torch

    def way(begin: dict[str, Any], end: dict[str, Any]) -> float:
        parts = [torch.as_tensor(end[k]).double() - torch.as_tensor(begin[k]).double() for k in one]
        return float(torch.stack([part.norm() for part in parts]).norm())

    assert one.keys() == other.keys()
    assert way(start, one) > 0
    assert way(one, other) <= share * way(start, one)

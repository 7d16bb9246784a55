"""TRL's side of benchmarks/peers.py."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from peers_work import CLIP, LR, Clock, Turn, Work, padded
from torch import Tensor


def trl(step: str, work: Work, count: int) -> Turn | None:
    """A turn of TRL's trainer for the step; None where it has none."""
    make = {"sft": trl_sft, "kd": trl_gkd, "jsd": trl_gkd, "gkd": trl_gkd, "dpo": trl_dpo}.get(step)
    if make is None:
        return None
    from transformers import TrainerCallback

    clock = Clock(work)

    class Timer(TrainerCallback):
        losses: list[float] = []  # noqa: RUF012

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.last = clock.now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

        def on_log(self, *given: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                self.losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as directory:
        usual = {
            "output_dir": directory, "max_steps": count, "per_device_train_batch_size": len(work.sequences),
            "learning_rate": LR, "max_grad_norm": CLIP, "logging_steps": 1, "report_to": "none",
            "save_strategy": "no", "gradient_checkpointing": False, "bf16": work.cuda, "use_cpu": not work.cuda,
            "disable_tqdm": True, "dataloader_num_workers": 0,
        }  # fmt: skip
        with (Path(directory) / "log").open("w") as said, redirect_stdout(said), redirect_stderr(said):
            make(step, work, usual, [Timer()]).train()
    return Turn(Timer.losses[0], clock.seconds, 0)


def text(ids: Sequence[int]) -> str:
    """Tokens as the words that the tokenizer has for them, without the end token."""
    return " ".join(f"w{i}" for i in ids if i > 2)


def trl_sft(_step: str, work: Work, usual: dict[str, Any], callbacks: list[Any]) -> Any:
    """SFTTrainer on prompts and completions."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in work.sequences]
    return SFTTrainer(
        work.student(), SFTConfig(**usual, max_length=None, completion_only_loss=True),
        train_dataset=Dataset.from_list(rows), processing_class=work.tokenizer(), callbacks=callbacks,
    )  # fmt: skip


def trl_gkd(step: str, work: Work, usual: dict[str, Any], callbacks: list[Any]) -> Any:
    """GKDTrainer on given text, or on-policy."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collator(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids, mask, labels = padded(work, [(row["prompt"], row["response"]) for row in rows])
        prompts = torch.tensor([row["prompt"] for row in rows])
        both = {"prompts": prompts, "prompt_attention_mask": torch.ones_like(prompts)}
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **both}

    config = GKDConfig(
        **usual, lmbda=float(step == "gkd"), beta=0.0 if step == "kd" else 0.5, temperature=1.0, max_length=None,
        max_new_tokens=work.new_tokens, dataloader_pin_memory=False,
    )  # fmt: skip
    return GKDTrainer(
        work.student(), work.teacher, config, data_collator=collator, processing_class=work.tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": p, "response": r} for p, r in work.sequences]),
        callbacks=callbacks,
    )  # fmt: skip


def trl_dpo(_step: str, work: Work, usual: dict[str, Any], callbacks: list[Any]) -> Any:
    """DPOTrainer with reference log-probabilities computed before."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": text(p), "chosen": " " + text(a) + " ", "rejected": " " + text(b) + " "}
        for (p, a), (_, b) in zip(work.sequences, work.rejected, strict=True)
    ]
    return DPOTrainer(
        work.student(), args=DPOConfig(**usual, beta=0.1, max_length=None, precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(rows), processing_class=work.tokenizer(), callbacks=callbacks,
    )  # fmt: skip

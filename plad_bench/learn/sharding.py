"""Shards a training over its ranks (FSDP2): each holds a part of weights, gradients and optimiser state.

The weights of a layer are gathered whenever it runs, and freed again; those outside the layers (embeddings, head) are
gathered for the forward pass and for the backward pass of a micro-batch. Under bf16 the weights of layers are gathered
in bf16, to which autocast would round the matrices among them anyway. All ranks compute equally many micro-batches,
because they gather together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from plad_bench.contract.errors import StageError
from plad_bench.contract.objectives import Sampling
from plad_bench.learn import models, ranks
from plad_bench.learn.rollouts import Sampler
from plad_bench.learn.sequences import Tokens, collate

_FEW = Tokens(list(range(4)), list(range(4, 12)))
"""What a model's head is compared on, which has to happen before the weights are divided."""


def shard(module: Any, precision: str, device: str) -> None:
    """Divide a loss module (learn/objectives.py) among all ranks. Layer by layer, the parts move to the ranks' devices.

    Raises:
        StageError: if transformers does not know which modules of the student are its layers.
    """
    student = module.student
    layers = models.layers(student)
    if not layers:
        kind = type(student).__name__
        raise StageError(f"{kind} does not say what its layers are, so it cannot be sharded", "Leave --shard out.")
    module.predictor.head(collate([_FEW], pad=0, device=str(student.device)))
    mesh = init_device_mesh(torch.device(device).type, (ranks.count(),))
    bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=bf16 if precision == "bf16" else MixedPrecisionPolicy())
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    module.sharded = True


@torch.no_grad()
def gather(model: nn.Module, into: nn.Module | None) -> None:
    """Copy the weights of a sharded model into a plain one. Every rank has to call this, also without a plain one."""
    plain = dict(into.named_parameters()) if into is not None else {}
    for name, parameter in model.named_parameters():
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if plain:
            plain[name].copy_(full)


@dataclass(frozen=True)
class ShardedSampler:
    """A `Sampler` whose own model is plain, and gets the weights of a sharded one before it samples."""

    sampler: Sampler
    copy: nn.Module
    """The model that it samples from."""
    sharded: nn.Module
    """The model that is trained."""

    def check(self, prompts: Sequence[list[int]]) -> None:
        """As in `Sampler`."""
        self.sampler.check(prompts)

    def sample(
        self, prompts: Sequence[list[int]], examples: Sequence[str], step: int, sampling: Sampling
    ) -> list[list[int]]:
        """As in `Sampler`."""
        gather(self.sharded, self.copy)
        return self.sampler.sample(prompts, examples, step, sampling)

    @property
    def elsewhere(self) -> float:
        """As in `Sampler`."""
        return self.sampler.elsewhere

    def close(self) -> None:
        """As in `Sampler`."""
        self.sampler.close()


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser as a single process would have it. Every rank has to call this."""
    state = optimizer.state_dict()
    gathered = {i: {name: ranks.whole(value) for name, value in of.items()} for i, of in state["state"].items()}
    return {**state, "state": gathered}


def restore(module: nn.Module, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], state: Any) -> None:
    """Give a module and its optimiser the weights and the state that a single process would have."""
    own = module.state_dict()
    module.load_state_dict({name: _part(value, own[name]) for name, value in weights.items()})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {i: {name: _part(value, parameters[i]) for name, value in of.items()} for i, of in state["state"].items()}
    optimizer.load_state_dict({**state, "state": parts})


def _part(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of this rank's part of a tensor, if `like` has the same shape and is sharded; otherwise the tensor."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    divided = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, requires_grad=False).copy_(divided)

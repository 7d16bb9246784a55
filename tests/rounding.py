"""Another processor, imitated: what torch computes comes out a few units in the last place beside what it is here.

`pytest --rounding SEED` runs tests so, in this process (not in its children). A test whose verdict changes depends on
how a processor rounds, and must not.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

UNITS = 4

MATRICES = {"addmm": 1, "baddbmm": 1, "bmm": 0, "mm": 0}
"""Products of matrices, with the place of the first factor. What they sum cancels, and its errors stay."""

SUMS = {
    "_log_softmax_backward_data",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_softmax_backward_data",
    "embedding_dense_backward",
    "native_layer_norm_backward",
}
"""Other sums over what their results do not show: an error is a part of the largest result of its row."""

OTHERS = {
    "_fused_rms_norm",
    "_log_softmax",
    "_softmax",
    "convolution",
    "cumsum",
    "dot",
    "exp",
    "gelu",
    "gelu_backward",
    "linalg_vector_norm",
    "log",
    "log_sigmoid_forward",
    "logsumexp",
    "mean",
    "mv",
    "native_layer_norm",
    "rsqrt",
    "sigmoid",
    "silu",
    "silu_backward",
    "sum",
    "tanh",
    "tanh_backward",
}


class Rounding(TorchDispatchMode):
    """Moves what these operations give, equal values equally and whatever else is in a batch."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        if name in MATRICES:
            a, b = args[MATRICES[name] :][:2]
            return self.moved(result, a.norm(dim=-1, keepdim=True) * b.norm(dim=-2, keepdim=True) / a.shape[-1] ** 0.5)
        if name not in SUMS and name not in OTHERS:
            return result
        results = result if isinstance(result, (tuple, list)) else [result]
        moved = [
            self.moved(one, one.abs().amax(-1, keepdim=True) if one.dim() and name in SUMS else one.abs())
            if isinstance(one, torch.Tensor) and one.is_floating_point() and one.numel()
            else one
            for one in results
        ]
        return type(result)(moved) if isinstance(result, (tuple, list)) else moved[0]

    def moved(self, value, size):
        units = UNITS
        if value.element_size() < 4:  # summed in float32, and rounded once
            units, size = 1, value.abs()
        size = torch.where(size.isfinite() & (size > 0), size, torch.ones_like(size))
        # Zeros and infinities stay, and what stands for them. Neighbours lie anywhere on so short a wave, as by chance.
        by = torch.sin(value.double() / size.double() * 1e7 + 1.234 * self.seed).to(value.dtype)
        beside = value + units * torch.finfo(value.dtype).eps * size * by
        return torch.where((value == 0) | (value.abs() > 1e30), value, beside)

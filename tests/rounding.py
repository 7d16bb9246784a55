"""Another processor, imitated: what torch computes comes out a few units in the last place beside what it is here.

`pytest --rounding SEED` runs tests so, in this process (not in its children). A test whose verdict changes depends on
how a processor rounds, and must not.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

UNITS = 4
"""Of a result, or, of a sum of products, of the largest in its row: terms cancel, and their errors stay."""

PRODUCTS = {
    "_log_softmax_backward_data",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_softmax_backward_data",
    "addmm",
    "baddbmm",
    "bmm",
    "convolution",
    "dot",
    "embedding_dense_backward",
    "mm",
    "mv",
    "native_layer_norm_backward",
}
OTHERS = {
    "_fused_rms_norm",
    "_log_softmax",
    "_softmax",
    "cumsum",
    "exp",
    "gelu",
    "gelu_backward",
    "linalg_vector_norm",
    "log",
    "log_sigmoid_forward",
    "logsumexp",
    "mean",
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
    """Moves what these operations give, equal values equally; zeros and infinities stay."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        if name not in PRODUCTS and name not in OTHERS:
            return result
        if isinstance(result, (tuple, list)):
            return type(result)(self.moved(one, name) for one in result)
        return self.moved(result, name)

    def moved(self, value, name):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
            return value
        size = value.abs()
        if name in PRODUCTS and value.dim():
            size = size.amax(-1, keepdim=True)
        size = torch.where(size.isfinite() & (size > 0), size, torch.ones_like(size))
        # A wave so short that neighbouring numbers lie anywhere on it stands for chance.
        by = torch.sin(value.double() / size.double() * 1e7 + 1.234 * self.seed).to(value.dtype)
        beside = value + UNITS * torch.finfo(value.dtype).eps * size * by
        return torch.where((value == 0) | ~value.isfinite(), value, beside)

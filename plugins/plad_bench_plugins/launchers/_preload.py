"""What every stage needs imported; the fork server imports it once, before the first fork."""

import accelerate  # noqa: F401
import torch  # noqa: F401
import transformers.generation  # noqa: F401
import transformers.models.auto.modeling_auto  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import plad_bench.execute.worker
import plad_bench.learn.generation
import plad_bench.learn.objectives
import plad_bench.learn.training  # noqa: F401

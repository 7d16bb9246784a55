"""What stages need imported; the fork server imports it once, before the first fork."""

import gc

import accelerate  # noqa: F401
import rouge_score.rouge_scorer  # noqa: F401
import torch  # noqa: F401
import transformers.generation
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama  # noqa: F401
from tqdm import tqdm

import plad_bench.execute.stages.score
import plad_bench.execute.worker
import plad_bench.learn.generation
import plad_bench.learn.objectives
import plad_bench.learn.training  # noqa: F401
from plad_bench.contract.registry import KINDS, Registry

_registry = Registry.load()
for _kind in KINDS:
    _registry.components(_kind)

# Made in a child instead, its semaphore would outlive a child that is killed, which Python complains of.
tqdm.get_lock()

# A child's first collection would touch, and so copy, every object imported here: a quarter of a second per stage.
gc.collect()
gc.freeze()

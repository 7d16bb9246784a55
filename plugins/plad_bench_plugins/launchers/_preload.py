"""What stages need imported; the fork server imports it once, before the first fork."""

import gc
import threading

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

# tqdm's own lock is a semaphore that all children would share: one that is killed while it holds it would leave every
# later one waiting. Each child draws its own progress bars, so a lock of its own threads is all that it needs.
tqdm.set_lock(threading.RLock())

# A child's first collection would touch, and so copy, every object imported here: a quarter of a second per stage.
gc.collect()
gc.freeze()

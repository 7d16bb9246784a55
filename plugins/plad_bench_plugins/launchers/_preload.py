"""What all stages need, which the fork server imports and reads once, before the first fork."""

import gc
import threading

from plad_bench.contract import gc_pause

with gc_pause.paused():  # it would traverse everything that is imported, again and again: a fifth of the time
    import click  # noqa: F401  a child imports the script that the driver was started by
    import rouge_score.rouge_scorer  # noqa: F401
    import torch  # noqa: F401
    import transformers.generation
    import transformers.models.auto.modeling_auto
    import transformers.models.auto.tokenization_auto
    import transformers.models.llama.modeling_llama  # noqa: F401
    from tqdm import tqdm

    import plad_bench.execute.stages.score
    import plad_bench.learn.generation
    import plad_bench.learn.objectives
    import plad_bench.learn.training  # noqa: F401
    from plad_bench.contract.registry import KINDS
    from plad_bench.execute import provenance, worker

    for _kind in KINDS:
        worker.plugins().components(_kind)
    provenance.code_hash()
    provenance.packages()

# tqdm's default lock is a semaphore that all children would share: a child that is killed while holding it would block
# all later ones. Each child draws its own progress bars, so a lock between its own threads is enough.
tqdm.set_lock(threading.RLock())

# Otherwise a child's first garbage collection would copy all objects imported here, which takes 0.25 s per stage.
gc.collect()
gc.freeze()

"""vllm: a local model that runs under vLLM only.

It provides text with token ids, and the log-probabilities of the most likely tokens of any text.
"""

from __future__ import annotations

from plad_bench import Access, Teacher
from plad_bench_plugins.teachers.hub import HFTeacherParams

RECORDS = (
    Teacher(
        name="vllm",
        summary="Any causal model in Hugging Face format, run by vLLM.",
        params=HFTeacherParams,
        provides=frozenset({Access.TEXT, Access.TOKEN_LOGPROBS, Access.TOP_K}),
        model=HFTeacherParams.model,
        training=HFTeacherParams.training,
        backend="vllm",
    ),
)

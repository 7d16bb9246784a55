"""A check of what generates text: vLLM, where it is installed, says what transformers says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from plad_bench import Check, Finding

_OTHERWISE = "Generate with --backend transformers, or install another version of vLLM."


def backends() -> Iterator[Finding]:
    """Whether both backends generate the same greedy text."""
    if find_spec("vllm") is None:
        yield Finding(
            ok=True, message="vLLM is not installed: transformers generates all text, with nothing to compare"
        )
        return
    found = _compared()
    if "error" in found:
        yield Finding(ok=False, message=found["error"], remedy=_OTHERWISE)
        return
    where = f"float32 on {found['device']}"
    if not found["differing"]:
        yield Finding(ok=True, message=f"transformers and vLLM give {found['prompts']} equal greedy texts, {where}")
        return
    prompt, agreeing = found["differing"][0]
    yield Finding(
        ok=False,
        message=f"transformers and vLLM differ in {len(found['differing'])} of {found['prompts']} greedy texts, "
        f"{where}; to {prompt!r} from token {agreeing + 1} on",
        remedy=_OTHERWISE,
    )


def _compared() -> dict[str, Any]:
    """What learn/parity.py prints, from a process of its own: its libraries write to wherever they are."""
    command = [sys.executable, "-m", "plad_bench.learn.backend_parity"]
    with tempfile.TemporaryFile("w+") as log:
        # It watches its standard input, whose other end closes when this process ends, however it does.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as child:
            made = child.stdout.read() if child.stdout else ""
            code = child.wait()
        if code:
            log.seek(0)
            reason = (log.read().strip().splitlines() or ["no reason given"])[-1]
            return {"error": f"the comparison failed: {reason}"}
    found: dict[str, Any] = json.loads(made.splitlines()[-1])
    return found


RECORDS = (Check(name="backends", summary="Do all backends generate the same text?", run=backends, slow=True),)

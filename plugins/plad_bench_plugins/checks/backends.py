"""A check that vLLM, if installed, generates the same text as transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from plad_bench import Check, Finding

_OTHERWISE = "Use --backend transformers, or install another version of vLLM."


def backends() -> Iterator[Finding]:
    """Whether both backends generate the same greedy text."""
    if find_spec("vllm") is None:
        yield Finding(ok=True, message="vLLM is not installed; transformers generates all text")
        return
    found = _compared()
    if "error" in found:
        yield Finding(ok=False, message=found["error"], remedy=_OTHERWISE)
        return
    where = f"float32 on {found['device']}"
    if not found["differing"]:
        yield Finding(ok=True, message=f"transformers and vLLM generate {found['prompts']} equal greedy texts, {where}")
        return
    prompt, agreeing = found["differing"][0]
    yield Finding(
        ok=False,
        message=f"transformers and vLLM differ in {len(found['differing'])} of {found['prompts']} greedy texts, "
        f"{where}; for {prompt!r} from token {agreeing + 1} on",
        remedy=_OTHERWISE,
    )


def _compared() -> dict[str, Any]:
    """Run learn/backend_parity.py in a separate process, because its libraries print to stdout and stderr."""
    command = [sys.executable, "-m", "plad_bench.learn.backend_parity"]
    with tempfile.TemporaryFile("w+") as log:
        # It watches its standard input, which is closed when this process ends.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as child:
            made = child.stdout.read() if child.stdout else ""
            code = child.wait()
        if code:
            log.seek(0)
            reason = (log.read().strip().splitlines() or ["no reason given"])[-1]
            return {"error": f"the comparison failed: {reason}"}
    found: dict[str, Any] = json.loads(made.splitlines()[-1])
    return found


RECORDS = (
    Check(name="backends", summary="Do all generation backends generate the same text?", run=backends, slow=True),
)

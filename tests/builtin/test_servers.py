"""The openai teacher against real servers of a tiny model: transformers' own and vLLM's, with faults put in between.

Each needs its package: tox run -e servers, and -e vllm.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest
import tiny
from standin import endpoint

from plad_bench.execute.stages import ask
from plad_bench.execute.stages.files import Prompt, read_lines, write_prompts
from plad_bench.execute.store import Artifact

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
TRANSFORMERS = all(map(find_spec, ("fastapi", "uvicorn", "openai")))
SERVERS = [
    pytest.param("transformers", marks=pytest.mark.skipif(not TRANSFORMERS, reason="needs transformers[serving]")),
    pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.skipif(not find_spec("vllm"), reason="needs vLLM")]),
]
PROMPTS = [tiny.sentence(i, 3 + i) for i in range(8)]
FAULTS = {
    PROMPTS[0]: ["cut", (500, {}, "oops")],
    PROMPTS[1]: [(429, {"Retry-After": "0.01"}, "slow down")],
    PROMPTS[2]: ["garbage", (503, {}, ""), (408, {}, "")],
    PROMPTS[3]: ["cut after"],
    PROMPTS[4]: ["hang"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a model of random weights whose greedy answers differ."""
    directory = tmp_path_factory.mktemp("model")
    tiny.llama(hidden_size=64).save_pretrained(directory)  # heads of a size that vLLM can run on a CPU
    tiny.tokenizer(template=TEMPLATE).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=SERVERS)
def server(request, model, tmp_path_factory):
    """Base URL of a server of that model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    small = ["--gpu-memory-utilization=0.1", "--max-model-len=128"]
    commands = {
        "transformers": ["transformers.cli.transformers", "serve", str(model), "--device=cpu", "--dtype=float32"],
        "vllm": [
            "vllm.entrypoints.openai.api_server",
            f"--model={model}",
            "--dtype=float32",
            "--enforce-eager",
            *small,
        ],
    }
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        where = ["--host=127.0.0.1", f"--port={port}"]
        process = subprocess.Popen([sys.executable, "-m", *commands[request.param], *where], stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        late = time.monotonic() + 600
        while not healthy(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < late, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def healthy(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def greedy(directory, text):
    """What transformers generates, here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=not text.startswith("user: "))["input_ids"]
    out = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(out, skip_special_tokens=True).strip(), len(ids[0]), len(out)


def whole(texts):
    """Without the beginnings of characters at their ends, which vLLM keeps back."""
    return {id_: text.rstrip("\N{REPLACEMENT CHARACTER}") for id_, text in texts.items()}


@pytest.mark.parametrize(("api", "form"), [("chat", "user: {}\nassistant:"), ("completions", "{}\n")])
def test_faults_between_lose_nothing_and_ask_nothing_twice(server, model, api, form, tmp_path, monkeypatch):
    monkeypatch.setattr("plad_bench_plugins._openai.FIRST_WAIT_S", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prompts = [Prompt(id=f"id{i}", split="train", prompt=p, references=(), meta={}) for i, p in enumerate(PROMPTS)]
    write_prompts(tmp_path, prompts, ["train"])

    def fault(prompt, nth):
        return dict(enumerate(FAULTS.get(prompt.strip(), []), 1)).get(nth)

    with endpoint(faults=fault, upstream=server) as between:
        teacher = {"model": str(model), "base_url": between.url, "api": api, "timeout": 10}
        context = tiny.context(
            tmp_path,
            spec={"split": "train", "max_new_tokens": 12},
            inputs={"data": Artifact(tmp_path, {"key": "k", "document": {"stage": "data"}})},
            job={"teacher": tiny.named("teacher", "openai", **teacher)},
        )
        ask.run(context)
    told = {row["id"]: row["responses"][0]["text"] for row in read_lines(context.out / "responses.jsonl")}
    own = {f"id{i}": greedy(model, form.format(prompt)) for i, prompt in enumerate(PROMPTS)}
    assert whole(told) == whole({id_: text for id_, (text, _, _) in own.items()})
    assert len(set(told.values())) > 4
    assert set(between.answered.values()) == {1}
    assert len(between.answered) == len(PROMPTS)
    assert context.counts["retried_requests"] == sum(map(len, FAULTS.values()))
    assert context.cost["tokens_prompted"] == sum(n for _, n, _ in own.values())
    assert context.cost["tokens_generated"] == sum(n for _, _, n in own.values())

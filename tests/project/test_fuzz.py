"""Whatever a person, a file or a server says, it is read or refused by an error of ours: never a traceback.

`FUZZ_INPUTS=1000000 pytest tests/project/test_fuzz.py` is the long form, which takes an hour of processor time; without
it each test takes a few hundred inputs, the same ones every time.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import gzip
import io
import json
import math
import os
import re
import struct
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tiny

hypothesis = pytest.importorskip("hypothesis")

import click  # noqa: E402
import gguf_files  # noqa: E402
import httpx2  # noqa: E402
import synthetic  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from plad_bench import BadRow, Example, Source  # noqa: E402
from plad_bench.cli.options import config_option  # noqa: E402
from plad_bench.contract import gguf, jsonlines  # noqa: E402
from plad_bench.contract.errors import PladBenchError  # noqa: E402
from plad_bench.contract.examples import Response  # noqa: E402
from plad_bench.contract.money import Budget  # noqa: E402
from plad_bench.contract.requests import Request, RequestContext  # noqa: E402
from plad_bench.execute.store import Store  # noqa: E402
from plad_bench.plan import boardfile, shapes  # noqa: E402
from plad_bench.plan.chosen import choose  # noqa: E402
from plad_bench.plan.selectors import parse  # noqa: E402
from plad_bench.records import storage  # noqa: E402
from plad_bench_plugins import _data_files, _openai  # noqa: E402
from plad_bench_plugins.tasks import _row_shapes, _rows  # noqa: E402
from plad_bench_plugins.teachers import recorded  # noqa: E402

pytestmark = pytest.mark.timeout(0 if "FUZZ_INPUTS" in os.environ else 300)
TESTS = 14
"""How many tests share the inputs of the long form."""
LONG = int(os.environ.get("FUZZ_INPUTS", "0"))
fuzz = settings(
    max_examples=math.ceil(LONG / TESTS) if LONG else 200,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# ---------------------------------------------------------------------------------------------------------- strategies

ODD = st.sampled_from(["", " ", "\n", "\r", "\t", "\x00", "\u2028", "\x85", "\ufeff", "\ud83d", "é", '"', "'", "\\"])
TEXT = st.one_of(st.text(max_size=20), st.text(alphabet="\",;\t\n\r [](){}|='ab1.#", max_size=30), ODD)
NUMBER = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, 1, -1, 10**400, 1e308, math.inf, -math.inf, math.nan, 2**63])
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["prompt", "response", "responses", "id", "messages", "conversations", "instruction", "input", "output", "split"]
)
TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "", None]) | JSON,
        "content": TEXT | JSON,
        "from": st.sampled_from(["human", "gpt"]),
        "value": TEXT,
    },
)
ROW = st.dictionaries(FIELDS | TEXT, TEXT | JSON | st.lists(TURN, max_size=4) | st.lists(TEXT, max_size=3), max_size=6)


def encoded(value):
    """A JSON value as a line, with what Python's writer allows beyond JSON."""
    return json.dumps(value).encode()


LINE = st.one_of(
    ROW.map(encoded),
    JSON.map(encoded),
    st.binary(max_size=40),
    TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    ROW.flatmap(lambda row: st.integers(0, 60).map(lambda cut: encoded(row)[:-cut])),
    st.just(b"[" * 5000),
    st.just(b'{"prompt": ' + b"9" * 5000 + b"}"),
)


@pytest.fixture
def place():
    """A directory for all inputs of a test: hypothesis would not make a new one for each."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def only_ours(function, *arguments):
    """What a function gives, or None if it refused with an error of ours that has something to say."""
    refused = ""
    try:
        return function(*arguments)
    except PladBenchError as error:
        refused = error.message
    assert refused.strip()
    return None


# ---------------------------------------------------------------------------------------------------------- selectors

NAMES = ["plad", "kd", "jsonl", "hub", "recorded", "openai", "e2e", "hf", "scratch", "win-judge", "all"]
PARAMETERS = [
    *("path", "prompt", "template", "response", "split", "test", "validation", "id", "beta", "temperature", "model"),
    *("missing", "max_missing", "scorer", "steps", "lr", "layers", "base_url", "rpm", "price_in", "x"),
]
SELECTOR = st.one_of(
    st.text(alphabet="ab[],=|'\" 1.\n", max_size=30),
    st.builds(
        lambda name, values: f"{name}[{','.join(f'{k}={v}' for k, v in values)}]",
        st.sampled_from(
            ["plad", "kd", "jsonl", "hub", "recorded", "openai", "e2e", "hf", "scratch", "win-judge", "all"]
        ),
        st.lists(
            st.tuples(
                st.sampled_from(PARAMETERS),
                NUMBER.map(lambda n: str(n)[:40]) | TEXT | TEXT.map(repr) | st.sampled_from(["true", "none", "1|2"]),
            ),
            max_size=4,
        ),
    ),
    TEXT,
)


@fuzz
@given(SELECTOR)
@example("plad[beta=1[]")
def test_selectors(text):
    for selector in only_ours(parse, text) or ():
        assert selector.name.strip() == selector.name


@fuzz
@given(st.sampled_from(["task", "teacher", "student", "method", "metric", "pair builder"]), SELECTOR)
def test_parameters(kind, text):
    for chosen in only_ours(choose, tiny.registry(), kind, text) or ():
        json.dumps(only_ours(chosen.public), allow_nan=False)
        assert chosen.label


# --------------------------------------------------------------------------------------------------------------- TOML


def toml(value):
    """A value as TOML; not always right, on purpose."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | float) else json.dumps(value)


KEYS = st.sampled_from(
    ["title", "metrics", "primary", "seeds_asked", "notes", "prices", "protocol", "tasks", "metric", "lr", "steps"]
)
TOML = st.one_of(
    st.dictionaries(KEYS | TEXT, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=4).map(
        lambda values: "\n".join(f"{k if k.isalpha() else json.dumps(k)} = {toml(v)}" for k, v in values.items())
    ),
    st.text(alphabet='ab=[]{}"\n#1.', max_size=40),
    TEXT,
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@fuzz
@given(TOML)
def test_board_files(place, content):
    (place / "board.toml").write_bytes(content)
    board = only_ours(boardfile.read, place / "board.toml")
    if board is not None:
        only_ours(boardfile.overrides, board, "demo", {"lr": 1e-3})


@click.command()
@click.option("--lr", type=float)
@click.option("--steps", type=click.IntRange(1))
@click.option("--title")
@click.option("--notes", is_flag=True)
@config_option
def configured(**options):
    """A command with a configuration file."""


@fuzz
@given(TOML)
def test_configuration_files(place, content):
    (place / "config.toml").write_bytes(content)
    made = CliRunner().invoke(configured, ["--config", str(place / "config.toml")])
    assert made.exit_code in {0, 2}, made.exception
    assert made.exception is None or isinstance(made.exception, SystemExit | PladBenchError)


# ------------------------------------------------------------------------------------------------------------ records

RECORD, _ = synthetic.record()
PATHS = [(name,) for name in RECORD] + [(a, b) for a, part in RECORD.items() if isinstance(part, dict) for b in part]


@fuzz
@given(st.lists(st.tuples(st.sampled_from(PATHS), JSON), max_size=3), st.integers(0, 30), st.booleans())
def test_records(place, changes, cut, drop):
    record = copy.deepcopy(RECORD)
    for path, value in changes:
        part = record
        for name in path[:-1]:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part[path[-1]] = value
            if drop:
                del part[path[-1]]
    text = json.dumps(record)
    (place / "record.json").write_text(text[: len(text) - cut] if cut > 25 else text)
    found = only_ours(storage.read, place / "record.json")
    if found is not None:
        assert only_ours(storage.parse, only_ours(storage.dumps, found), "x") == found


# --------------------------------------------------------------------------------------------------------------- rows


def account_of(path, content):
    """Rows of a file, after seeing that every item of it is counted."""
    path.write_bytes(content)
    found = only_ours(lambda: list(_data_files.rows(_data_files.listed(path))))
    if found is None:
        return []
    (source,) = [item for item in found if isinstance(item, Source)]
    assert source.rows == len(found) - 1
    for item in found:
        if isinstance(item, BadRow):
            assert item.reason
            item.reason.encode()
    return [item for item in found if isinstance(item, _data_files.DataRow)]


READERS = [
    _row_shapes.RowReader(prompt="prompt", response="response"),
    _row_shapes.RowReader(prompt="prompt", response=""),
    _row_shapes.RowReader(prompt="input", response="output", split="split"),
    _row_shapes.RowReader(prompt="prompt", response="response", template="{instruction} {input}"),
]


def examples_of(values):
    """A row through every reader: an example whose texts can be written, or a reason."""
    for reader in READERS:
        try:
            made = reader.example(values)
        except _rows.UnfitError as unfit:
            _rows.hint(values, unfit.missing)
            continue
        assert isinstance(made, Example)
        for text in (made.prompt, *made.references):
            assert text.strip()
            text.encode()


@fuzz
@given(
    st.lists(LINE, max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.sampled_from(["jsonl", "json", "jsonl.gz"]),
)
def test_json_lines(place, lines, end, kind):
    content = end.join(lines)
    rows = account_of(place / f"x.{kind}", gzip.compress(content, 1) if kind.endswith("gz") else content)
    if kind == "jsonl":
        blank = {b"", b"\xef\xbb\xbf"}
        there = [line for line in content.split(b"\n") if line.strip(b" \t\r\n\xef\xbb\xbf") not in blank]
        assert len(rows) <= len(there)
    for row in rows:
        examples_of(row.values)


@fuzz
@given(st.lists(ROW, max_size=4))
def test_rows_that_are_written_are_read_again(place, rows):
    jsonlines.write_lines(place / "written.jsonl", rows)
    again = list(jsonlines.read_lines(place / "written.jsonl"))
    assert json.dumps(again) == json.dumps(rows)


CELL = st.one_of(st.sampled_from(["a", "b c", "", '"', '""', 'x"y', "é", "\x00"]), TEXT)


@fuzz
@given(
    st.lists(st.lists(CELL, max_size=4), max_size=8),
    st.sampled_from([",", ";", "\t", "|", ", "]),
    st.sampled_from(["prompt{}response", "prompt", " prompt {} response ", '"prompt"{}"response"', "", '"']),
    st.booleans(),
    st.binary(max_size=3),
)
def test_csv(place, table, delimiter, header, quoted, tail):
    out = io.StringIO(newline="")
    out.write(header.format(delimiter) + "\n")
    if quoted:
        with contextlib.suppress(csv.Error):
            csv.writer(out, delimiter=delimiter[0]).writerows(table)
    else:
        out.write("\n".join(delimiter.join(row) for row in table))
    rows = account_of(place / "x.csv", out.getvalue().encode("utf-8", "surrogatepass") + tail)
    for row in rows:
        examples_of(row.values)


@fuzz
@given(
    st.binary(max_size=200), st.sampled_from(["parquet", "arrow", "feather", "csv.zst", "jsonl.xz", "tsv.bz2", "pq.gz"])
)
def test_other_files(place, content, kind):
    account_of(place / f"y.{kind}", content)


# ---------------------------------------------------------------------------------------------------- recorded answers

REQUESTS = [Request(id=f"id{i}", prompt=f"prompt {i}") for i in range(3)]
ANSWER = st.one_of(
    LINE,
    st.builds(
        lambda i, text, by: encoded({by: f"{by} {i}" if by == "prompt" else f"id{i}", "response": text}),
        st.integers(0, 3),
        TEXT | st.lists(TEXT, max_size=3) | JSON,
        st.sampled_from(["id", "prompt"]),
    ),
)


@fuzz
@given(st.lists(ANSWER, max_size=8), st.sampled_from(["fail", "skip"]))
def test_recorded_responses(place, lines, missing):
    (place / "answers.jsonl").write_bytes(b"\n".join(lines))
    params = recorded.RecordedParams(path=place / "answers.jsonl", missing=missing, max_missing=0.7)
    context = RequestContext(
        split="train",
        max_new_tokens=8,
        temperature=0.0,
        top_k=0,
        seed=0,
        response_cache=place / "journal",
        budget=Budget(),
        same=lambda prompt: " ".join(prompt.split()),
        progress=lambda done, total: None,
        counts={},
        cost={},
        notes={},
    )
    with contextlib.redirect_stdout(io.StringIO()):
        found = only_ours(recorded.responses, REQUESTS, params, context)
    if found is not None:
        assert len(found) == len(REQUESTS)
        assert sum(not one for one in found) == context.counts.get("without_response", 0)
        assert all(isinstance(r, Response) for one in found for r in one)
        json.dumps(context.notes)


# ------------------------------------------------------------------------------------------------------------- servers

USAGE = st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens"]), JSON) | JSON
MESSAGE = st.dictionaries(st.sampled_from(["content", "role", "refusal"]), TEXT | JSON, max_size=3) | JSON
CHOICE = st.fixed_dictionaries({}, optional={"message": MESSAGE, "text": TEXT | JSON, "finish_reason": TEXT | JSON})
REPLY = st.one_of(
    st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": USAGE}),
    st.fixed_dictionaries({"choices": JSON}),
    JSON,
).map(encoded) | st.binary(max_size=60)


@fuzz
@given(REPLY, st.sampled_from([200, 200, 200, 400, 401, 404, 429, 500]), TEXT, st.sampled_from(["chat", "completions"]))
def test_server_replies(content, status, header, api):
    params = _openai.EndpointParams(model="m", base_url="http://127.0.0.1:1/v1", api=api)
    session = _openai._Session(params, Budget(), Path("unused"))
    headers = [(b"retry-after", header.encode("latin-1", "replace"))]
    answering = httpx2.MockTransport(lambda request: httpx2.Response(status, content=content, headers=headers))
    with httpx2.Client(base_url=params.base_url, transport=answering) as client:
        try:
            answer = session._post(client, {"model": "m"})
        except (PladBenchError, _openai._NoAnswer):
            return
    assert isinstance(answer.text, str)
    assert session._cost(answer, 1.0) >= 0
    assert jsonlines.parse(jsonlines.line_of({"text": answer.text}))["text"] == answer.text


@fuzz
@given(TEXT | NUMBER.map(str) | st.datetimes().map(str) | st.just("Sun, 06 Nov 9999 08:49:37 +9999"))
def test_times_to_wait(header):
    assert _openai.retry_after(header, datetime.now(UTC)) >= 0


@fuzz
@given(st.lists(LINE, max_size=6))
def test_journals_and_manifests(place, lines):
    (place / "journal.jsonl").write_bytes(b"\n".join(lines))
    assert list(_openai._read(place / "journal.jsonl", {"id0": {"a": 1}})) == []
    store, key = Store(place / "store"), "ab" * 32
    artifact = store.place(key)
    artifact.mkdir(parents=True, exist_ok=True)
    (artifact / "manifest.json").write_bytes(b"\n".join(lines))
    assert only_ours(store.find, key) is None


# -------------------------------------------------------------------------------------------------------- model files

WIDE = st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]) | st.integers(0, 2**64 - 1)
PATCH = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.integers(0, 13).map(lambda kind: struct.pack("<I", kind)),
    WIDE.map(lambda length: struct.pack("<Q", length)),
)
NESTED = st.integers(1, 3000).map(lambda depth: struct.pack("<IQ", 9, 1) * depth)
CHANGE = st.tuples(
    st.sampled_from([b"GGUF", b"general.", b"llama.", b"tokenizer.", b"blk."]),
    st.integers(0, 30),
    st.integers(-12, 60),
    st.tuples(PATCH, st.sampled_from(["over", "before", "end"])) | st.tuples(NESTED, st.just("before")),
)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """The content of a GGUF file."""
    pytest.importorskip("gguf", reason="needs the extra gguf")
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return gguf_files.write(path, tiny.llama(), tiny.tokenizer()).read_bytes()


@fuzz
@given(st.lists(CHANGE, min_size=1, max_size=4))
@example([(b"llama.", 0, -8, (struct.pack("<Q", 2**64 - 1), "over"))])
def test_gguf_headers(model_file, place, changes):
    """Bytes near a name are overwritten, added, or the last ones of the file."""
    content = model_file
    for name, number, shift, (patch, how) in changes:
        places = [found.start() for found in re.finditer(re.escape(name), content)] or [0]
        at = max(0, places[number % len(places)] + shift)
        rest = {"over": content[at + len(patch) :], "before": content[at:], "end": b""}[how]
        content = content[:at] + patch + rest
    (place / "x.gguf").write_bytes(content)
    gguf._header.cache_clear()  # a file's time may be the same as before
    found = only_ours(gguf.header, place / "x.gguf")
    if found is not None:
        only_ours(gguf.check, place / "x.gguf", "x")
        shapes.shape_of(found.config, found.parameters)
        assert set(found.text_tokens) <= set(found.tokens)
        (found.architecture + found.template).encode()

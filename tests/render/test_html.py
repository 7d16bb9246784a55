"""The page as one file of HTML: whole, without requests, and with the text of records as text."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import hostile
import numpy as np
import pytest
from synthetic import component, put, put_samples, realistic, record, with_samples

from plad_bench.leaderboard.loading import load
from plad_bench.records.text import printable
from plad_bench.render import html, markdown
from plad_bench.render.write import render_board


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text within each kind of element."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open, self.tables = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"meta", "wbr", "input", "br", "line", "circle", "polyline"}:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag, **attributes):
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    def text(self, *tags):
        return "".join(data for tag, data in self.texts if not tags or tag in tags)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return with_samples(realistic(tmp_path_factory.mktemp("boards") / "demo", examples=60))


@pytest.fixture
def board(made, tmp_path):
    return shutil.copytree(made, tmp_path / "demo")


def page(board, sections=()):
    return render_board(board, sections)[board / "index.html"].decode()


ELEMENTS = {
    *("html", "head", "meta", "title", "style", "script", "body", "header", "main", "nav", "section", "article"),
    *("h1", "h2", "h3", "p", "a", "div", "span", "pre", "code", "wbr", "strong", "ul", "li", "dl", "dt", "dd"),
    *("table", "thead", "tbody", "tr", "th", "td", "fieldset", "legend", "label", "input", "output", "button"),
    *("svg", "text", "line", "circle", "g", "polyline"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "role", "tabindex", "scope", "title"),
    *("hidden", "dir", "type", "value", "checked", "aria-label", "aria-labelledby", "aria-live"),
    *("data-key", "data-access", "data-better"),
    *("xmlns", "viewbox", "width", "height", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "points"),
    *("text-anchor", "transform"),
}


def assert_harmless(source):
    """Only elements and attributes of the templates, and addresses that stay among the boards."""
    seen = Page(source)
    assert {tag for tag, _ in seen.elements} <= ELEMENTS
    assert {name for _, attributes in seen.elements for name in attributes} <= ATTRIBUTES
    for attributes in seen.all("a"):
        assert re.fullmatch(
            r"#[\w-]+|\.\./index\.html|[\w.%~-]+/index\.html|https://arxiv\.org/abs/[\d.]+", attributes["href"]
        )
    assert len(seen.all("script")) == len(seen.all("style")) == 1
    assert not set(source) & set("\x00\x1b\u202e\r")
    return seen


def test_the_policy_allows_its_own_style_and_script_and_nothing_else(board):
    source = page(board)
    (policy,) = [m["content"] for m in Page(source).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert {name: value for name, value in rules.items() if "sha256" not in value} == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert html.MADE in source[:200]


def test_the_page_says_what_the_markdown_says_in_the_same_order(board):
    seen = Page(page(board, ["## A section of a plugin"]))
    order = ["Demo", "Task ", "Ranking by ", "Plots", "All metrics", "Cost", "Pairwise comparisons",
             "Incomplete, failed", "Samples", "A section of a plugin", "How to reproduce"]  # fmt: skip
    text = seen.text("h1", "h2", "p", "pre")
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    markdown = render_board(board)[board / "README.md"].decode()
    for table in seen.tables:
        for row in table:
            cells = [cell.replace("\N{NO-BREAK SPACE}", " ").strip() for cell in row]
            plain = re.sub(r"\\(.)|`|\[(?=`)|(?<=`)\]\(\S+?\)", r"\1", markdown).replace("&lt;", "<")
            assert "| " + " | ".join(cells) + " |" in plain


def test_values_sort_by_number_and_tell_their_interval(board):
    group = load(board).groups[0]
    seen = Page(page(board))
    row = group.rows[0]
    estimate = row.estimates["missing-slots"]
    tips = [c["title"] for c in seen.all("td") if c.get("data-key") == f"{estimate.value:.10g}"]
    assert tips == 2 * [f"95 % interval {100 * estimate.low:.2f} to {100 * estimate.high:.2f}, over seeds and examples"]
    assert [a["value"] for a in seen.all("input")] == ["text", "token log-probs", "logits"]
    assert {a.get("data-access") for a in seen.all("tr")} == {None, "text", "token log-probs", "logits"}


def test_samples_stand_side_by_side_with_their_score(board):
    group = load(board).groups[0]
    assert len(group.samples) == 2
    labels = [row.label for row in (*group.baselines, *group.rows)]
    assert [output.text for output in group.samples[0].outputs][-1] == "sft.s0 says\nthis"
    seen = Page(page(board))
    assert seen.text("code").count("plad[loss=margin]") >= 3
    assert len(seen.all("article")) == 2
    assert len(seen.all("li")) == 2 * len(labels)
    assert "(nothing)" in seen.text("p")
    score = group.samples[0].outputs[0].score
    assert f"missing-slots {100 * score:.1f} %" in seen.text("span")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file, data: file.unlink(), "are missing"),
        (lambda file, data: file.write_bytes(file.read_bytes() + b"{}\n"), "the hash differs"),
        (lambda file, data: _rewrite(file, data, b"{}\n"), "does not hold samples"),
        (lambda file, data: _rewrite(file, data, b"\xff\n"), "does not hold samples"),
        (lambda file, data: _rewrite(file, data, b'{"example": 1, "prompt": NaN}\n'), "does not hold samples"),
        (lambda file, data: data["task"].update(redistributable=False), "may not be redistributed"),
    ],
)
def test_samples_that_cannot_be_shown_are_named_and_cost_no_number(tmp_path, change, reason):
    for method in ("kd", "plad"):
        data, scores = record(method, 0, columns={"m": (np.arange(3.0), "higher", "")})
        put_samples(tmp_path, data, ["a", "b"])
        if method == "kd":
            change(tmp_path / "cells" / "demo.tiny" / "kd.s0.samples.jsonl", data)
        put(tmp_path, data, scores)
    board = load(tmp_path)
    (problem,) = board.problems
    assert problem.file == "demo.tiny/kd.s0.samples.jsonl"
    assert reason in problem.reason
    assert {row.label for group in board.groups for row in group.rows} == {"kd", "plad"}
    assert [[o and o.text for o in shown.outputs] for g in board.groups for shown in g.samples] == [
        [None, "a"],
        [None, "b"],
    ]


def _rewrite(file, data, content):
    file.write_bytes(content)
    data["samples"]["sha256"] = hashlib.sha256(content).hexdigest()


def test_a_record_cannot_name_samples_elsewhere(tmp_path):
    data, scores = record("kd", 0, columns={"m": (np.arange(3.0), "higher", "")})
    data["samples"] = {"file": "../../../secret.jsonl", "sha256": "0" * 64}
    put(tmp_path, data, scores)
    (problem,) = load(tmp_path).problems
    assert "samples.file" in problem.reason


@pytest.mark.parametrize("text", hostile.TEXTS)
def test_text_of_records_samples_and_plugins_never_becomes_markup(tmp_path, text):
    board = hostile.board(tmp_path / "b", text)
    (board / "board.toml").write_text(f"title = {json.dumps(text.replace(chr(0xD800), ''))}\n")
    seen = assert_harmless(page(board, [text]))
    if "\ud800" not in text:
        assert len(seen.all("article")) == 2
        for line in filter(None, (printable(line).strip() for line in text.split("\n"))):
            assert line[:2000] in seen.text("dd")


def test_each_task_has_its_part_and_every_link_within_the_page_leads_somewhere(tmp_path):
    x = {"m": (np.arange(9.0), "higher", "")}
    for name in ("demo", "e2e"):
        task = {**component(name), "licence": "x", "redistributable": True}
        for method in ("kd", "plad"):
            data, scores = record(method, 0, columns=x, folder=name, task=task)
            put_samples(tmp_path, data, ["a"])
            put(tmp_path, data, scores)
    seen = Page(page(tmp_path))
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in seen.all("a") if a["href"].startswith("#")} <= set(ids)
    assert seen.text("h3").count("Samples") == 2


def test_huge_and_missing_numbers_are_shown_as_what_they_are(tmp_path):
    for name, values in (("kd", np.full(9, 1e99)), ("plad", np.arange(9.0)), ("sft", np.full(9, np.nan))):
        columns = {"m": (np.arange(9.0), "higher", ""), "n": (values, "higher", "")}
        put(tmp_path, *record(name, 0, columns=columns, cost={"train_device_seconds": 1e300}))
    (tmp_path / "board.toml").write_text('metrics = ["m", "n"]')
    source = page(tmp_path)
    cells = [cell for table in Page(source).tables for row in table for cell in row]
    assert any(cell.startswith("1e+99") for cell in cells)
    assert not re.search(r'data-key="[^"]*(nan|inf)', source, re.IGNORECASE)


def test_a_page_names_the_checkpoint_of_a_teacher(tmp_path):
    told = {"metric": "rouge-l", "values": {"69": 0.1, "137": 0.3, "206": 0.2, "274": 0.2}, "step": 137}
    told_wrongly = {"metric": "rouge-l", "values": [], "step": 137}
    columns = {"length": (np.arange(20.0), None, "words")}
    for name, notes, expected in (("a", told, True), ("b", told_wrongly, False), ("c", None, False)):
        provenance = {"code": "1a2b3c4", "notes": {"teacher": {"selected": notes}}}
        put(tmp_path / name, *record("teacher", columns=columns, params={}, provenance=provenance))
        shown = load(tmp_path / name)
        words = "teacher: its best checkpoint of 4 (after 137 steps) by "
        assert [words in page for page in (html.render(shown), markdown.render(shown))] == [expected, expected]


def test_without_records_there_is_a_page(tmp_path):
    assert "No records yet" in Page(page(tmp_path)).text("p")


def test_the_script_and_the_style_end_where_they_should():
    for name in ("page.js", "page.css"):
        assert "</" not in html.source(name)
        assert "<!--" not in html.source(name)


def test_a_board_that_no_index_lists_has_no_link_to_one(made, tmp_path):
    for name, listed in (("mine", True), ("quickstart", False)):
        links = Page(page(shutil.copytree(made, tmp_path / name))).all("a")
        assert ("../index.html" in {link["href"] for link in links}) == listed

"""Help texts, documentation and boards use the terms of the field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from plad_bench.cli.main import cli
from plad_bench.cli.state import State

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "docs/*.md",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "leaderboards/**/README.md",
        "leaderboards/**/index.html",
    )
    for path in ROOT.glob(pattern)
)


@dataclass(frozen=True)
class Term:
    """A pattern of words that are not used, and the right term."""

    banned: str
    right: str
    allowed: str = ""
    """Pattern of contexts, up to 40 characters to each side, in which the word has its ordinary meaning."""


TERMS = (
    Term(r"warm[- ]start\w*", "SFT initialisation"),
    Term(r"warm-?up", "SFT initialisation", allowed=r"(?i)linear|schedule|learning rate"),
    Term(r"signals?", "teacher log-probabilities", allowed=r"process|driver|kill|by a signal|SIG[A-Z]"),
    Term(r"frozen", "reference model", allowed=r"digest"),
    Term(r"(student|sample|replay) texts?", "on-policy text, off-policy samples or replay buffer"),
    Term(r"perplexity,? (in |\()nats", "nll"),
    Term(r"pair[- ]accuracy", "preference accuracy"),
    Term(r"unfinished", "truncated", allowed=r"(stage|run|training)s?"),
    Term(r"(responses?|texts?|answers?) (is|are|was|were) cut\b|length limit cut|cut_sequences", "truncated"),
    Term(r"detectable", "minimum detectable difference (MDE)", allowed=r"minimum\s+detectable"),
    Term(r"reference rows?", "baselines"),
    Term(r"batch(es)? of \d+ prompts", "global batch of N prompts", allowed=r"global batch"),
    Term(r"purses?", "budget"),
    Term(r"askings?", "request"),
    Term(r"journals?", "response cache"),
    Term(r"whoever", "a noun, such as the user"),
    Term(r"comes? of", "is produced by"),
    Term(r"for want of", "without, or because of missing"),
    Term(r"makes? do with", "works with"),
)


def misused(text: str) -> list[tuple[int, str, str]]:
    """(line, words, right term) of every banned expression in a text."""
    found = []
    for term in TERMS:
        spaced = term.banned.replace(" ", r"\s+")
        for match in re.finditer(rf"(?i)(?<![\w`-])({spaced})(?![\w-])", text):
            context = text[max(0, match.start() - 40) : match.end() + 40]
            if not (term.allowed and re.search(term.allowed, context)):
                found.append((text.count("\n", 0, match.start()) + 1, match[0], term.right))
    return sorted(found)


def prose(markdown: str) -> str:
    """The text of a Markdown page with code, comments and addresses blanked out; line numbers stay."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    for pattern in (
        r"(?ms)^ *(```|~~~).*?^ *\1",
        r"(?s)<!--.*?-->",
        r"(?m)^(    |\t)(?! *([-*]|\d+\.) ).*$",
        r"`[^`]+`",
        r"\]\([^)]*\)",
    ):
        markdown = re.sub(pattern, blank, markdown)
    return markdown


class _Visible(HTMLParser):
    """Collects the text of a page without code, commands and samples, by line."""

    VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden: list[str] = []
        """Open elements within the outermost hidden one, and that one."""

    def handle_starttag(self, tag, attributes):
        hides = tag in {"code", "pre", "script", "style"} or ("class", "sample") in attributes
        if (hides or self.hidden) and tag not in self.VOID:
            self.hidden.append(tag)

    def handle_endtag(self, tag):
        if tag in self.hidden:
            while self.hidden.pop() != tag:
                pass

    def handle_data(self, data):
        if not self.hidden:
            line, _ = self.getpos()
            self.lines += [""] * (line + data.count("\n") - len(self.lines))
            for number, part in enumerate(data.split("\n"), line - 1):
                self.lines[number] += f" {part}"


def visible(html: str) -> str:
    """The text of an HTML page without code, commands and samples; line numbers stay."""
    page = _Visible()
    page.feed(html)
    return "\n".join(page.lines)


def helps(command: click.Command, context: click.Context):
    """(command path, help) of a command and of all its subcommands."""
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            yield from helps(below, click.Context(below, info_name=name, parent=context))


def told(name: str, text: str) -> list[str]:
    return [f'{name}:{line}: "{" ".join(words.split())}": use {right}' for line, words, right in misused(text)]


def test_help_uses_the_terms_of_the_field():
    root = click.Context(cli, info_name="plad-bench", **cli.context_settings)
    root.ensure_object(State).extended = True  # without commands of installed plugins
    assert [problem for name, text in helps(cli, root) for problem in told(f"{name} --help", text)] == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_use_the_terms_of_the_field(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert told(page, visible(text) if page.endswith(".html") else prose(text)) == []


# --------------------------------------------------------------------------------------------------------- the checker


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("The warm start takes 600 steps.", "SFT initialisation"),
        ("600 warmup steps", "SFT initialisation"),
        ("Signals hold the top 64.", "teacher log-probabilities"),
        ("under the frozen\ninitialised student", "reference model"),
        ("trains on student text", "on-policy text, off-policy samples or replay buffer"),
        ("perplexity in nats", "nll"),
        ("its pair-accuracy", "preference accuracy"),
        ("12 unfinished responses", "truncated"),
        ("responses were cut", "truncated"),
        ("the detectable difference", "minimum detectable difference (MDE)"),
        ("the reference rows", "baselines"),
        ("batches of 32 prompts", "global batch of N prompts"),
        ("an empty purse", "budget"),
        ("what an asking costs", "request"),
        ("the journal", "response cache"),
        ("whoever has no price", "a noun, such as the user"),
    ],
)
def test_a_banned_expression_is_found_with_its_line_and_the_right_term(text, right):
    (problem,) = told("page.md", f"First line.\n{text}\n")
    assert problem.startswith("page.md:2: ")
    assert problem.endswith(f"use {right}")


@pytest.mark.parametrize(
    "text",
    [
        "a linear warm-up over 5 % of the steps",
        "Signals reach the driver and its workers.",
        "the space of unfinished stages",
        "the minimum detectable difference",
        "a global batch of 32 prompts",
        "perplexity of the references",
    ],
)
def test_ordinary_meanings_are_allowed(text):
    assert misused(text) == []


def test_code_commands_and_samples_are_not_prose():
    markdown = "A `purse`.\n\n```sh\npurse\n```\n\n    purse\n\n[x](purse.md)\n<!-- purse -->\n- a purse\n"
    assert told("page.md", prose(markdown)) == ['page.md:11: "purse": use budget']
    html = (
        "<style>.purse {}</style><pre>purse</pre>\n<article class=sample><p>purse<br></p></article>\n<p>a\n"
        "<b>purse</b></p><code>purse</code><script>purse</script>"
    )
    assert told("index.html", visible(html)) == ['index.html:4: "purse": use budget']

"""Text that would be markup, a formula or a path, in every place of a record, and what a page may show of it."""

import re
from pathlib import Path

import numpy as np
from synthetic import columns, put, put_samples, record

TEXTS = [
    "<script>alert(1)</script>",
    "a|b|c",
    "a`b``c",
    "[x](javascript:alert(1)) ![y](https://evil.example/p.png)",
    "line\nbreak\r\n\n# Heading\n\n| a |\n",
    "</svg><script/>&amp;\"'",
    "**bold** _it_ ~~no~~ $x$ https://evil.example www.evil.example me@evil.example",
    "\x00\x1b[31m\u202eevil\ud800",
    "    indented\n```\nfence",
    "é" * 5000,
    '=HYPERLINK("https://evil.example")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\\input{/etc/passwd} \\\\ & % $ # _ { } ~ ^",
    "---\nlicense: evil\n---",
    "../../../etc/passwd",
]


def board(directory: Path, text: str) -> Path:
    """A board of two methods, a failed one and a broken record, with this text wherever a record takes one."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=30)
    for method in ("kd", "plad"):
        data, scores = record(method, 0, columns=columns(rng, 0.1, 0.5, hard), cost={"train_device_seconds": 5.0})
        data["method"] |= {"selector": method + text, "access": text, "paper": text, "plugin": text}
        data["method"]["params"] = {text: text}
        for part in ("task", "teacher", "student"):
            data[part]["selector"] = text
        data["student"]["params"] = {text: text}
        data["task"]["licence"] = text
        data["protocol"] |= {"precision": text, "split": text, text: text}
        data["cost"][text] = 1.0
        data["provenance"] = {"code": text, "command": text, "device": text, "git": {text: text}, "notes": {"x": text}}
        if "\ud800" not in text:
            put_samples(directory, data, [text, f"{method} {text}"], prompt=text, reference=text)
        put(directory, data, scores)
    put(directory, *record("gkd", 0, status="failed", reason=text))
    put(directory, {"x": text}, at="demo.tiny/" + "broken")
    (directory / "board.toml").touch()
    return directory


def assert_no_markup(page: str) -> None:
    """A page of markdown has no element, link, heading, table or control character of a record's."""
    prose = "\n".join(line for line in page.splitlines() if not line.startswith("    "))
    outside = re.sub(r"`[^`\n]*`", "", prose)  # code spans show what they hold
    assert not re.search(r"<(?!/?sub>)", outside)
    assert not re.search(r"(?<!\\)\]\((?!plots/)", outside)
    assert not re.search(r"(?<![\\\w])(\*\*(?!These)|~~|\$)", outside)
    assert not re.search(r"https?://|www\.e|e@e", outside)
    assert "\n# Heading" not in page
    assert not set(page) & set("\x00\x1b\u202e\r")
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1

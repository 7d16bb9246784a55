"""The pages of the repository, and the commands that stand on them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *sorted(DOCS.glob("*.md"))]


def shell_lines(page: str) -> list[str]:
    """Every line of the fenced shell blocks of a page, continued ones joined, without prompts and comments alone."""
    blocks = re.findall(r"^ *```(?:sh|console|bash)\n(.*?)^ *```", page, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def inline_commands(page: str) -> list[str]:
    """The complete commands in the text of a page: with arguments, and without placeholders such as FILE or `...`."""
    prose = re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL)
    found = (" ".join(text.split()) for text in re.findall(r"`(plad-bench [^`]+)`", prose))
    return [text for text in found if not re.search(r"\b[A-Z]+\b|\.\.\.|plad-bench [a-z-]+$", text)]


def commands(page: str) -> list[list[str]]:
    """The arguments of every plad-bench command of a page."""
    found = []
    for line in [*shell_lines(page), *inline_commands(page)]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if set(token) <= set(";|&<>()"):
                found.append(words)
                words = []
            else:
                words.append(token)
    return [words[1:] for words in found if words and Path(words[0]).name == "plad-bench"]


def python_blocks(page: str) -> list[str]:
    """The fenced Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def page_files() -> dict[str, str]:
    """Name -> source of the files that commands on the pages use: Python blocks that begin with `# NAME.py`."""
    blocks = [block for page in PAGES for block in python_blocks(page.read_text("utf-8"))]
    return {found[1]: block for block in blocks if (found := re.match(r"# (\w+\.py)\n", block))}


def python_script(page: str) -> str:
    """The Python blocks of a page as one script, which begins with the names of plad_bench; empty without a block."""
    blocks = python_blocks(page)
    return "\n\n".join(["from __future__ import annotations\nfrom plad_bench import *", *blocks]) if blocks else ""

"""Hooks of MkDocs that let the pages work as they stand, on GitHub and on the site.

Pages link to files outside docs/, such as boards. The site has these files at the same places below its root, where
boards are their HTML pages, so a link only loses the `../` or `docs/` that leads there on GitHub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/**/*.py",
    "leaderboards/**/*.html",
    "leaderboards/**/*.svg",
)
"""Files outside docs/ that pages link to."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ to the site."""
    for path in (path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))):
        text = re.sub(r'(href="(?:\.\./)+)docs/([\w-]+)\.md', r"\1\2/", path.read_text(encoding="utf-8"))
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between docs/ and the rest of the repository into links of the site."""
    leading = r"\]\((?:\.\./|docs/)"
    markdown = re.sub(rf"{leading}README\.md", "](index.md", markdown)
    markdown = re.sub(rf"{leading}", "](", markdown)
    markdown = re.sub(r"(\]\(leaderboards/(?:[\w-]+/)?)README\.md", r"\1index.html", markdown)
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace(r"\|", "|"), markdown)  # GitHub's tables want \| in code

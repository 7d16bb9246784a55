"""A board's section in somebody's README, through the command line."""

import pytest
import synthetic
from click.testing import CliRunner

from plad_bench.cli.main import cli

README = "# Mine\n\n<!-- plad-bench:real -->\nold\n<!-- /plad-bench:real -->\n\nThe end. <!-- plad-bench:other -->\n"


@pytest.fixture
def readme(tmp_path):
    synthetic.realistic(tmp_path / "boards" / "real", seeds=3, examples=40)
    (tmp_path / "boards" / "real" / "board.toml").touch()
    path = tmp_path / "README.md"
    path.write_text(README)
    return path


def leaderboard(readme, *options):
    arguments = ["leaderboard", "--boards-dir", str(readme.parent / "boards"), "--into", str(readme), *options]
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def test_the_section_is_filled_and_the_rest_left_alone(readme):
    assert leaderboard(readme).exception is None
    text = readme.read_text()
    assert text.startswith(
        "# Mine\n\n<!-- plad-bench:real -->\n![real: quality with intervals](boards/real/plots/quality.svg)"
    )
    assert text.endswith("<!-- /plad-bench:real -->\n\nThe end. <!-- plad-bench:other -->\n")
    assert "old" not in text
    assert "| 1 | `" in text
    assert "(boards/real/README.md)" in text


def test_check_tells_a_section_that_is_not_up_to_date(readme):
    leaderboard(readme)
    assert leaderboard(readme, "--check").return_value == 0
    readme.write_text(readme.read_text().replace("| 1 |", "| 0 |", 1))
    result = leaderboard(readme, "--check")
    assert result.return_value == 1
    assert "README.md" in result.output

"""A board's section in somebody's README, through the command line."""

import pytest
import synthetic
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.errors import UsageError

README = "# Mine\n\n<!-- plad-bench:real -->\nold\n<!-- /plad-bench:real -->\n\nThe end.\n"


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
    assert text.endswith("<!-- /plad-bench:real -->\n\nThe end.\n")
    assert "old" not in text
    assert "| `plad` |" in text
    assert "(boards/real/README.md)" in text


def test_check_tells_a_section_that_is_not_up_to_date(readme):
    leaderboard(readme)
    assert leaderboard(readme, "--check").return_value == 0
    readme.write_text(readme.read_text().replace("| `plad` |", "| `plaf` |", 1))
    result = leaderboard(readme, "--check")
    assert result.return_value == 1
    assert "README.md" in result.output


def test_a_section_of_a_board_that_was_not_asked_for_is_left_alone(readme):
    (readme.parent / "boards" / "other").mkdir()
    (readme.parent / "boards" / "other" / "board.toml").touch()
    other = "<!--plad-bench:other-->mine<!-- /plad-bench:other -->\n"
    readme.write_text(README + other + README)
    assert leaderboard(readme, "real").exception is None
    assert other in readme.read_text()
    assert readme.read_text().count("| `plad` |") >= 2
    assert "old" not in readme.read_text()


WRONG = {
    "no marker": ("# Mine\n", "no marker of a board found"),
    "an unknown board": (README.replace("real", "rael"), "no board 'rael' in "),
    "not closed": (README.replace("/plad-bench", "plad-bench"), "line 3: <!-- plad-bench:real --> is not closed"),
    "closed as another": (
        README.replace("/plad-bench:real", "/plad-bench:x"),
        "line 3: <!-- plad-bench:real --> is not",
    ),
    "closed before": ("<!-- /plad-bench:real -->\n" + README, "line 1: <!-- /plad-bench:real --> closes no section"),
    "no name": (README.replace(":real", ":"), "no board ''"),
    "no text": (b"\xff\xfe", "invalid UTF-8 at byte 0"),
}


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["write", "check"])
@pytest.mark.parametrize("case", WRONG)
def test_markers_that_mean_nothing_are_errors_and_nothing_is_written(readme, case, options):
    content, message = WRONG[case]
    readme.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.read_bytes() for path in readme.parent.rglob("*") if path.is_file()}
    result = leaderboard(readme, *options)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert result.exception.remedy
    assert {path: path.read_bytes() for path in readme.parent.rglob("*") if path.is_file()} == before


def test_check_says_what_to_do(readme):
    leaderboard(readme)
    readme.write_text(readme.read_text().replace("| `plad` |", "| `plaf` |", 1))
    assert f"run `plad-bench leaderboard --into {readme}`" in leaderboard(readme, "--check").stderr

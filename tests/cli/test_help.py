"""Help: of every command, under both names, and quick to import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from program import plad_bench


def test_help_is_quick_to_import():
    code = (
        "import sys; from plad_bench.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "run" in result.stdout


@pytest.mark.parametrize(
    "command", ["run", "plan", "status", "plugins", "leaderboard", "show", "compare", "export", "cache"]
)
def test_every_command_has_help_under_both_names(command, tmp_path):
    long = plad_bench(command, "--help", cwd=tmp_path)
    assert long.returncode == 0
    assert plad_bench(command, "-h", cwd=tmp_path).stdout == long.stdout

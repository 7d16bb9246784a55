"""`doctor`: runs all registered checks, and those of plad-bench itself, and prints a remedy for each problem."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.options import Number, boards_option, echo_json, json_option, store_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode

if TYPE_CHECKING:
    from plad_bench.contract.components import Check, Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command(short_help="Check the environment and suggest fixes.")
@store_option
@boards_option
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    help="Time limit per check in seconds.  [default: 120, with --slow 600]",
)
@click.option(
    "--slow", is_flag=True, help="Also run the slow checks, such as comparing the outputs of all generation backends."
)
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, /, *, store: Path, boards_dir: Path, timeout: float | None, slow: bool, as_json: bool
) -> int:
    """Check Python, packages, GPUs, memory, disk, access to the hub, environment variables and plugins.

    Each problem comes with a remedy. Plugins can add checks. Exits with 1 if a check fails; warnings do not affect the
    exit code.
    """
    from plad_bench.cli.plugin_checks import own_checks

    registry = ctx.ensure_object(State).registry
    registered = [r.component for found in registry.components("check").values() for r in found]
    checks = [*registered, *own_checks(ctx, registry, store.expanduser(), boards_dir.expanduser())]
    found = examine(checks if slow else [_put_off(check) for check in checks], timeout or (600 if slow else 120))
    rows = [
        {"check": check.name, "level": f.level, "message": f.message, "remedy": f.remedy}
        for check, findings in zip(checks, found, strict=True)
        for f in findings
    ]
    failed = any(row["level"] == "failed" for row in rows)
    if as_json:
        echo_json({"ok": not failed, "findings": rows})
    else:
        _print(rows)
    return ExitCode.FAILED if failed else ExitCode.OK


def _put_off(check: Check) -> Check:
    """The check itself, or, if it is slow, a check that reports how to run it."""
    from plad_bench.contract.components import Finding

    message = f"slow check, not run: {check.summary} Run it with --slow."
    return replace(check, run=lambda: [Finding(ok=True, message=message)]) if check.slow else check


def examine(checks: Sequence[Check], timeout: float) -> list[list[Finding]]:
    """Run all checks concurrently and return their findings. A check that raises or exceeds `timeout` seconds fails."""
    running = [_Running(check) for check in checks]
    for one in running:
        one.start()
    return [one.result(timeout) for one in running]


class _Running(threading.Thread):
    """A running check. The thread is a daemon, so that a check that hangs does not keep the process alive."""

    def __init__(self, check: Check) -> None:
        super().__init__(daemon=True)
        self.check, self.findings = check, list[Any]()

    def run(self) -> None:
        from plad_bench.contract.components import Finding

        try:
            for finding in self.check.run():
                if not isinstance(finding, Finding):
                    msg = f"yielded {type(finding).__name__}, not Finding"
                    raise TypeError(msg)  # noqa: TRY301  reported below, like any other error of a check
                self.findings.append(finding)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a check that fails must not stop the others
            message = f"the check itself failed: {type(error).__name__}: {error}"
            self.findings.append(Finding(ok=False, message=message, remedy="Report this to the plugin's author."))

    def result(self, timeout: float) -> list[Finding]:
        """The findings, once the check has ended or timed out."""
        from plad_bench.contract.components import Finding

        self.join(timeout)
        if not self.is_alive():
            return self.findings
        late = Finding(ok=False, message=f"timed out after {timeout:g} s", remedy="Increase --timeout.")
        return [*self.findings, late]


def _print(rows: Sequence[dict[str, str]]) -> None:
    wide = max(len(row["check"]) for row in rows)
    for row in rows:
        level = click.style(f"{row['level']:<8}", fg=_COLOURS[row["level"]])
        click.echo(f"{level} {row['check']:<{wide}}  {row['message']}")
        if row["remedy"]:
            click.echo(f"{'':<{wide + 11}}{row['remedy']}")
    counts = {level: sum(row["level"] == level for row in rows) for level in _COLOURS}
    click.echo("\n" + ", ".join(f"{count} {level}" for level, count in counts.items()), err=True)

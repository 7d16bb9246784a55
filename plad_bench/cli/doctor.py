"""`doctor`: runs every registered check, and those of plad-bench's own state, and says what to do."""

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


@click.command(short_help="Check the environment, and say what to do about it.")
@store_option
@boards_option
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    help="Seconds for each check.  [default: 120, with --slow 600]",
)
@click.option("--slow", is_flag=True, help="Also run what takes a minute: compare the texts of all backends.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, /, *, store: Path, boards_dir: Path, timeout: float | None, slow: bool, as_json: bool
) -> int:
    """Check Python, packages, GPUs, memory, disk, the way to the hub, variables and plugins; each with a remedy.

    Plugins add checks of their own. Exit code 1 if a check fails; a warning is no failure.
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
    """The check, or one that says of a slow check how to run it."""
    from plad_bench.contract.components import Finding

    message = f"not run, for it takes a while: {check.summary} (--slow)"
    return replace(check, run=lambda: [Finding(ok=True, message=message)]) if check.slow else check


def examine(checks: Sequence[Check], timeout: float) -> list[list[Finding]]:
    """What each check finds, all at the same time; one that raises, or takes longer than `timeout` seconds, says so."""
    running = [_Running(check) for check in checks]
    for one in running:
        one.start()
    return [one.result(timeout) for one in running]


class _Running(threading.Thread):
    """A check at work. A daemon: one that hangs does not keep the program from ending."""

    def __init__(self, check: Check) -> None:
        super().__init__(daemon=True)
        self.check, self.findings = check, list[Any]()

    def run(self) -> None:
        from plad_bench.contract.components import Finding

        try:
            for finding in self.check.run():
                if not isinstance(finding, Finding):
                    msg = f"yielded {type(finding).__name__}, not Finding"
                    raise TypeError(msg)  # noqa: TRY301  reported below, like whatever else a check does wrong
                self.findings.append(finding)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a check may fail in any way; it costs only its own line
            message = f"the check itself failed: {type(error).__name__}: {error}"
            self.findings.append(Finding(ok=False, message=message, remedy="Tell its author."))

    def result(self, timeout: float) -> list[Finding]:
        """Its findings, once it has ended or the time is up."""
        from plad_bench.contract.components import Finding

        self.join(timeout)
        if not self.is_alive():
            return self.findings
        late = Finding(ok=False, message=f"no answer within {timeout:g} s", remedy="Try again with a longer --timeout.")
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

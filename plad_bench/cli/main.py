"""The entry point `plad-bench`: runs a command and turns errors into messages and exit codes."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
from click.core import ParameterSource

from plad_bench.cli.environment import PREFIX, empty, mistyped
from plad_bench.cli.environment import renamed as renamed_variables
from plad_bench.cli.options import refuse_empty, renamed
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode, PladBenchError
from plad_bench.contract.files import refused

_COMMANDS = {
    "run": ("run", "Run a comparison of distillation methods and render its board."),
    "plan": ("plan", "Show which cells and stages run would execute, reuse or skip."),
    "status": ("status", "Show the progress of runs."),
    "plugins": ("plugins", "List all components by kind, and broken plugins."),
    "leaderboard": ("leaderboard", "Render boards from their records, or check that their pages are up to date."),
    "show": ("show", "Show one record: scores, parameters, provenance, samples."),
    "compare": ("compare", "Compare two methods: paired difference, confidence interval, p-value, MDE."),
    "export": ("export", "Export scores, tables, model cards, checkpoints or prompts."),
    "new-plugin": ("new_plugin", "Create a plugin package from a template."),
    "check-plugin": ("check_plugin", "Check that a plugin meets the plugin contract."),
    "doctor": ("doctor", "Check the environment and suggest fixes."),
    "cache": ("cache", "Inspect and clean up the artifact store."),
}


class Cli(click.Group):
    """The command group. It imports the module of a command on demand, and plugins can add commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._extend(ctx)
        return [*_COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module, _ = _COMMANDS[cmd_name]
            found: click.Command = getattr(import_module(f"plad_bench.cli.{module}"), cmd_name.replace("-", "_"))
            return found
        self._extend(ctx)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, summary) for name, (_, summary) in _COMMANDS.items()]
        self._extend(ctx)
        rows += [(name, command.get_short_help_str()) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            found = super().resolve_command(ctx, args)
        except click.UsageError as error:
            from plad_bench.contract.suggestions import near_matches, suggestion

            names = self.list_commands(ctx)
            message = f"No such command {args[0]!r}. {suggestion(near_matches(args[0], names), names)}"
            raise click.UsageError(message, error.ctx) from None
        if found[0] in _COMMANDS:  # a plugin decides which arguments its own command accepts
            refuse_empty(found[2])
            for old, new in renamed(found[2]):
                click.echo(
                    f"Warning: {old} is deprecated; use {new}. The old name works in this version only.", err=True
                )
        return found

    def _extend(self, ctx: click.Context) -> None:
        """Let plugins add their commands; a plugin that fails is reported and skipped."""
        state = ctx.ensure_object(State)
        if state.extended:
            return
        state.extended = True
        manager = state.registry.manager
        for impl in manager.hook.plad_bench_commands.get_hookimpls():
            try:
                impl.function(cli=self)
            except Exception as error:  # noqa: BLE001  a plugin must not break other commands
                click.echo(f"plugin {impl.plugin_name} failed to add its commands: {error}", err=True)


def _remember(ctx: click.Context, _option: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Store plugin files before the command is looked up, because they may define it."""
    ctx.ensure_object(State).plugin_files = files
    return files


@click.command(
    cls=Cli,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "PLAD_BENCH",
        "max_content_width": 100,
    },
    epilog="A selector is name or name[param=value,...]; | separates the values of a sweep. Options can also be set "
    "by environment variables (PLAD_BENCH_RUN_STEPS=100), and those of run and plan in a file: --config FILE.toml.",
)
@click.option(
    "-p",
    "--plugin",
    "plugin_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_remember,
    is_eager=True,
    expose_value=False,
    help="Load a plugin from a Python file (may be repeated).",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="plad-bench", prog_name="plad-bench")
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Compare methods for distilling language models under one controlled protocol, and publish the leaderboard.

    Without options, `plad-bench run` compares four methods on a built-in task, offline, on a CPU.
    """
    ctx.ensure_object(State).debug = debug
    if any(name.startswith(PREFIX) for name in os.environ) and ctx.invoked_subcommand != "doctor":
        for old, new in renamed_variables(os.environ).items():
            click.echo(f"Warning: {old} is deprecated; use {new}. The old name works in this version only.", err=True)
            command, _, setting = new.removeprefix(PREFIX).lower().partition("_")
            defaults = dict(ctx.default_map or {})
            ctx.default_map = {**defaults, command: {**defaults.get(command, {}), setting: os.environ[old]}}
        for name, remedy in mistyped(ctx, os.environ):
            click.echo(f"Warning: unknown environment variable {name}. {remedy}", err=True)
        for name in empty(os.environ):
            raise click.UsageError(f"the environment variable {name} is empty: set a value or unset it.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    gc.set_threshold(100_000)  # imports make many objects and no garbage: a tenth of a short command was collection
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes must not import modules from the working directory
    debug = "--debug" in given or bool(os.environ.get("PLAD_BENCH_DEBUG"))
    try:
        code = cli.main(given, prog_name="plad-bench", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and error.option_name in {"-p", "--plugin"}:
            click.echo("Put it before the command: plad-bench -p FILE run ...", err=True)
        if origin := _origin_of(error):
            click.echo(f"The value was set by {origin}.", err=True)
        sys.exit(error.exit_code)
    except PladBenchError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except OSError as error:  # an error of the operating system, not a bug
        if debug:
            raise
        click.echo(f"Error: {refused(error)}", err=True)
        sys.exit(ExitCode.MISSING)


def _interrupted(_signal: int, _frame: object) -> None:
    """Shut down at the first Ctrl-C, and ignore further ones, which would interrupt the shutdown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _origin_of(error: click.ClickException) -> str:
    """The environment variable or file that set a wrong value; empty if the command line did."""
    parameter, context = getattr(error, "param", None), getattr(error, "ctx", None)
    if not isinstance(parameter, click.Option) or context is None or parameter.name is None:
        return ""
    source = context.get_parameter_source(parameter.name)
    if source is ParameterSource.DEFAULT_MAP:
        return "the file given with --config"
    if source is not ParameterSource.ENVIRONMENT:
        return ""
    automatic = f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
    named = parameter.envvar or automatic
    return "the environment variable " + (named if isinstance(named, str) else " or ".join(named))

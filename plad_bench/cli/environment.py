"""Environment variables that plad-bench reads, and misspelled ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from plad_bench.contract.renamed import SETTINGS

PREFIX = "PLAD_BENCH_"


def known(command: click.Command, context: click.Context, prefix: str = PREFIX) -> Iterator[str]:
    """All environment variables that the options of a command and its subcommands are read from."""
    for parameter in command.params:
        named = getattr(parameter, "envvar", None)
        yield from [named] if isinstance(named, str) else named or []
        if parameter.name and isinstance(parameter, click.Option):
            yield f"{prefix}{parameter.name.upper()}"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                inner = click.Context(below, info_name=name, parent=context)
                yield from known(below, inner, f"{prefix}{name.upper().replace('-', '_')}_")


def empty(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that are set to an empty value."""
    return sorted(name for name, value in environ.items() if name.startswith(PREFIX) and not value.strip())


def renamed(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables with a deprecated name, each with its current name."""
    return {
        name: name[: -len(old)] + new.upper()
        for name in sorted(environ)
        for old, new in SETTINGS.items()
        if name.startswith(PREFIX) and name.endswith(f"_{old.upper()}")
    }


def mistyped(context: click.Context, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables with our prefix that plad-bench does not read, each with a remedy."""
    given = sorted(name for name in environ if name.startswith(PREFIX))
    if not given:
        return []
    from plad_bench.contract.suggestions import near_matches

    root = context.find_root()
    names = {name.lower(): name for name in known(root.command, root)}
    wrong = []
    for name in given:
        if name in renamed(environ):
            continue
        if names.get(name.lower()) != name:
            near = " or ".join(names[match] for match in near_matches(name, sorted(names))[:3])
            wrong.append((name, f"Did you mean {near}?" if near else "Unset it, or see `plad-bench COMMAND --help`."))
    return wrong

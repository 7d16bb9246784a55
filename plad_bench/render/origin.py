"""The foot of a page: the commands, versions, dates and compute behind its records, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator

from plad_bench.contract.training_budget import parse
from plad_bench.contract.words import NAMED
from plad_bench.leaderboard import compute
from plad_bench.leaderboard.board import Board
from plad_bench.records import text
from plad_bench.render.pieces import Column, Entry, Line, Name, Said, Section, Strong, Table, joined


def commands(board: Board) -> list[str]:
    """The commands that made a board, each on one line."""
    return [text.clean(command, 1000) for command in board.commands]


def origin(board: Board) -> list[Line]:
    """What one must know to reproduce a board, besides its commands."""
    lines: list[Line] = [(NAMED,)] if board.groups else []
    if older := older_data(board):
        lines.append(older)
    if any((budget := parse(group.protocol.get("budget"))) and budget.kind == "money" for group in board.groups):
        lines.append(("The budget of money counts by the prices of board.toml: copy its [prices] to reproduce it.",))
    if any("path=" in command for command in commands(board)):
        lines.append(("Paths are shortened to their last part: replace each with the location on your machine.",))
    for name, commit in sorted(board.settings.commits.items()):
        lines.append(
            ("On the Hub, ", Name(name), " was commit ", Name(commit), ": copy [commits] from board.toml to use it.")
        )
    if len(board.code) > 1:
        versions = [(Name(version), f" ({n} records)") for version, n in board.code.items()]
        strong = Strong("These records were made by different versions of the code:")
        lines.append((strong, " ", *joined(versions), "."))
    elif board.code:
        version = Name(next(iter(board.code)))
        lines.append((f"All {board.records} records were made by version ", version, " of the code."))
    if board.compute.executions:
        lines.append(computed(board))
    if board.dates:
        lines.append((f"The records are of {text.clean(' to '.join(board.dates), 60)} (UTC).",))
    for other in board.others:
        lead = Strong("Records with older stages:" if other.older else "Records with stages of another version:")
        packages = " with other packages" if other.only_packages else ""
        stages = Said(", ".join(other.stages), 1000)
        lines.append((lead, f" {_records(other.records)}, ", stages, " by version ", Name(other.code), f"{packages}."))
    if board.untold:
        say = "does not name" if board.untold == 1 else "do not name"
        lines.append((f"{_records(board.untold)} {say} the versions of the code that made the shared stages.",))
    return lines


def computed(board: Board) -> Line:
    """What all stages of a board cost."""
    of, prices = board.compute, board.settings.prices
    shares = (("trials of tuning", of.trials), ("attempts that failed or were repeated", of.lost))
    parts = [f"{text.seconds(compute.seconds(part))} for {what}" for what, part in shares if part]
    which = f" ({' and '.join(parts)})" if parts else ""
    least = "" if of.complete else "at least "
    took = text.seconds(of.total("device_seconds"))
    line: Line = (f"The stages executed for this board took {least}{took} of device time{which}",)
    for cost, shown, what in (
        ("energy_wh", text.energy, " of measured energy"),
        ("tokens_trained", text.amount, " tokens trained on"),
        ("tokens_generated", text.amount, " tokens generated"),
    ):
        if (total := of.total(cost)) is not None:
            line = (*line, f", {shown(total)}{what}")
    if (money := of.total("money")) is not None:
        unit: Line = (" ", Said(prices.currency, 12)) if prices else ()
        line = (*line, f", {text.money(money)}", *unit, " paid for requests")
    line = (*line, ". A stage that several cells share counts once.")
    if of.complete:
        return line
    return (*line, " Some records are of an earlier version, which did not count evaluations and repeated stages.")


def left_out(board: Board) -> Iterator[Section]:
    """The record files that the page leaves out, if there are any."""
    if board.problems:
        columns = (Column(("File",)), Column(("Reason",)))
        body = tuple((Entry((Name(p.file),)), Entry((Said(p.reason),))) for p in board.problems)
        title = (f"Files left out ({len(board.problems)})",)
        yield Section("problems", title, "Nothing on this page is computed from these files.", Table(columns, body))


def older_data(board: Board) -> Line:
    """The records of older data, in one line; nothing if there are none."""
    if not board.older:
        return ()
    named: list[Line] = [(Name(what), f" ({_records(n)})") for what, n in board.older.items()]
    command = Name(f"plad-bench leaderboard {board.name} --drop older")
    return ("Records of older versions of the data are not shown: ", *joined(named), ". ", command, " removes them.")


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"

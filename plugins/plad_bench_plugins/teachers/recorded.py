"""recorded: a teacher whose responses were made elsewhere and lie in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from plad_bench import (
    Access,
    BadRow,
    MissingError,
    Params,
    Request,
    RequestContext,
    Response,
    StageError,
    Teacher,
    param,
)
from plad_bench.contract.rows import LISTED, Account, log
from plad_bench_plugins._data_files import KINDS, DataPath, Listing, Row, listed, rows
from plad_bench_plugins.tasks._rows import UnfitError

_NAMED, _LENGTH = 3, 80
"""How many prompts a message shows, and how much of each."""


class RecordedParams(Params):
    """Which file, and which of its fields are what."""

    path: DataPath | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, TSV, Parquet, Arrow; also compressed) or a directory that holds such files alone.
    Keys and records see the hash of its content."""
    id: str = param("id", min_length=1, source="ours")
    """Field with the id of the prompt, as the harness names it; it may be absent."""
    prompt: str = param("prompt", min_length=1, source="ours")
    """Field with the prompt, for rows without such an id."""
    response: str = param("response", min_length=1, source="ours")
    """Field with the response, or with a list of them."""
    missing: Literal["fail", "skip"] = param("fail", source="ours", keyed=False)
    """What becomes of a prompt without a response: `fail` stops, `skip` goes without it and counts it."""
    max_missing: float = param(0.05, ge=0, lt=1, source="ours", keyed=False)
    """The largest share of a split's prompts that `missing=skip` goes without."""

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            msg = "give path=FILE, or a directory"
            raise ValueError(msg)
        return self

    def files(self) -> Listing:
        """The files.

        Raises:
            MissingError: if there are none.
        """
        if self.path is None or not (files := listed(self.path)).data:
            raise MissingError(
                f"teacher recorded: {self.path} is or holds no file of a kind that is read ({KINDS})",
                "Give a file or a directory of files: --teacher 'recorded[path=PLACE]'.",
            )
        return files


def responses(
    requests: Sequence[Request], params: RecordedParams, context: RequestContext
) -> list[tuple[Response, ...]]:
    """The recorded responses to each request, in the order of the file.

    A row is matched by its id, or else by its prompt, whatever its white space and the form of its characters.

    Raises:
        StageError: if a request has none, or with missing=skip too many have none; the bad rows, which may be why, are
            named too. Or as `Account.close`.
    """
    by_id: dict[str, list[Response]] = {q.id: [] for q in requests}
    by_prompt = {context.same(q.prompt): q.id for q in requests}
    account = Account("teacher recorded")
    elsewhere = 0
    for row in rows(params.files()):
        if not isinstance(row, Row):
            account.add(row)
            continue
        try:
            given, found = _responses(row.values, params), str(row.values.get(params.id))
            if found not in by_id and (row.values.get(params.prompt) is not None or params.id not in row.values):
                found = by_prompt.get(context.same(_text(row.values, params.prompt)), "")
        except UnfitError as unfit:
            account.add(BadRow(where=row.where, reason=str(unfit)))
            continue
        account.read += 1
        if found in by_id:
            by_id[found] += given
        else:
            elsewhere += 1
    context.counts["rows_of_other_prompts"] = elsewhere
    account.close(context.counts, context.notes)
    if missing := [q for q in requests if not by_id[q.id]]:
        if params.missing == "fail" or len(missing) > params.max_missing * len(requests):
            raise _lacking(missing, len(requests), params, context, account.bad)
        context.counts["without_response"] = len(missing)
        context.notes["without_response"] = [q.id for q in missing[:LISTED]]
        log(f"{len(missing)} of {len(requests)} prompts have no recorded response", [_shown(q) for q in missing])
    return [tuple(by_id[q.id]) for q in requests]


def _lacking(
    missing: Sequence[Request], total: int, params: RecordedParams, context: RequestContext, bad: Sequence[BadRow]
) -> StageError:
    unread = f"; {len(bad)} rows cannot be used, the first is {bad[0].where}: {bad[0].reason}" if bad else ""
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    instead = " Or leave win-teacher and agreement out of --metrics." if context.split != "train" else ""
    allowed = f"missing=skip allows {params.max_missing:.0%}, max_missing= more"
    return StageError(
        f"the recorded responses lack {len(missing)} of the {total} prompts of the split {context.split}: "
        f"{', '.join(map(_shown, missing[:_NAMED]))}{more}{unread}",
        f"Record them too (`plad-bench export prompts` writes what to answer), or go without them: {allowed}.{instead}",
    )


def _shown(request: Request) -> str:
    """A prompt as a message shows it: quoted, so that no record repeats it."""
    text = " ".join(request.prompt.split())
    return repr(text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "...")


def _responses(values: Mapping[str, Any], params: RecordedParams) -> list[Response]:
    name = params.response
    given = values.get(name, values.get(f"{name}s") if name == "response" else None)
    texts = given if isinstance(given, list) else [given]
    if not texts:
        raise UnfitError(f"field {name} is an empty list")
    return [Response(text=_text({name: one}, name)) for one in texts]


def _text(values: Mapping[str, Any], field: str) -> str:
    """The text of a field, which may be empty."""
    value = values.get(field)
    if not isinstance(value, str):
        what = f"no field {field}" if value is None else f"field {field} is of type {type(value).__name__}, not text"
        raise UnfitError(what)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnfitError(f"field {field} is not UTF-8") from None
    return value


RECORDS = (
    Teacher(
        name="recorded",
        summary="Responses made elsewhere, from a file.",
        params=RecordedParams,
        provides=frozenset({Access.TEXT}),
        responses=responses,
        require=lambda params: params.files() and None,
        immediate=True,
    ),
)

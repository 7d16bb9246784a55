"""recorded: a teacher with responses from a file."""

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
from plad_bench_plugins._data_files import KINDS, DataPath, DataRow, Listing, listed, rows
from plad_bench_plugins.tasks._rows import UnfitError

_NAMED, _LENGTH = 3, 80
"""Maximum number and length of prompts in a message."""


class RecordedParams(Params):
    """A file and its fields."""

    path: DataPath | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, TSV, Parquet or Arrow, optionally compressed) or a directory with only such files.
    Keys and records contain the hash of its content."""
    id: str = param("id", min_length=1, source="ours")
    """Field with the id of the prompt, from `plad-bench export prompts`; optional."""
    prompt: str = param("prompt", min_length=1, source="ours")
    """Field with the prompt, for rows without an id."""
    response: str = param("response", min_length=1, source="ours")
    """Field with the response, or with a list of responses."""
    missing: Literal["fail", "skip"] = param("fail", source="ours", keyed=False)
    """Handling of prompts without a response: `fail` stops the run, `skip` counts and skips them."""
    max_missing: float = param(0.05, ge=0, lt=1, source="ours", keyed=False)
    """Maximum share of a split's prompts that `missing=skip` may skip."""

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            msg = "give path=, a file or a directory"
            raise ValueError(msg)
        return self

    def files(self) -> Listing:
        """The files.

        Raises:
            MissingError: if there are no files.
        """
        if self.path is None or not (files := listed(self.path)).data:
            raise MissingError(
                f"teacher recorded: {self.path} is not, and does not contain, a file of a supported kind ({KINDS})",
                "Give a file or a directory of files: --teacher 'recorded[path=PATH]'.",
            )
        return files


def responses(
    requests: Sequence[Request], params: RecordedParams, context: RequestContext
) -> list[tuple[Response, ...]]:
    """The recorded responses to each request, in the order of the file.

    A row is matched by its id, or else by its prompt, ignoring white space and Unicode normalisation.

    Raises:
        StageError: if a request has no response or, with missing=skip, too many have none. The message includes bad
            rows, a possible cause. Also as `Account.close`.
    """
    by_id: dict[str, list[Response]] = {q.id: [] for q in requests}
    by_prompt = {context.same(q.prompt): q.id for q in requests}
    account = Account("teacher recorded")
    elsewhere = 0
    for row in rows(params.files()):
        if not isinstance(row, DataRow):
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
        f"recorded responses are missing for {len(missing)} of the {total} prompts of the {context.split} split: "
        f"{', '.join(map(_shown, missing[:_NAMED]))}{more}{unread}",
        f"Add responses (`plad-bench export prompts` lists the prompts), or skip the prompts: {allowed}.{instead}",
    )


def _shown(request: Request) -> str:
    """A prompt for a message, quoted, so that records do not contain it."""
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
        summary="Recorded responses from a file.",
        params=RecordedParams,
        provides=frozenset({Access.TEXT}),
        responses=responses,
        require=lambda params: params.files() and None,
        immediate=True,
    ),
)

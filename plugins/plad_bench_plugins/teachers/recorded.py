"""recorded: a teacher whose responses were made elsewhere and lie in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import model_validator

from plad_bench import Access, Asking, BadRow, MissingError, Params, Question, Response, StageError, Teacher, param
from plad_bench.contract.rows import Account
from plad_bench_plugins._data_files import KINDS, DataPath, Listing, Row, listed, rows
from plad_bench_plugins.tasks._rows import UnfitError


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


def responses(questions: Sequence[Question], params: RecordedParams, asking: Asking) -> list[tuple[Response, ...]]:
    """The recorded responses to each question, in the order of the file.

    A row is matched by its id, or else by its prompt, whatever the case, spacing, punctuation and order of its words.

    Raises:
        StageError: if a question has none; the bad rows, which may be why, are named too. Or as `Account.close`.
    """
    by_id: dict[str, list[Response]] = {q.id: [] for q in questions}
    by_prompt = {asking.same(q.prompt): q.id for q in questions}
    account = Account("teacher recorded")
    elsewhere = 0
    for row in rows(params.files()):
        if not isinstance(row, Row):
            account.add(row)
            continue
        try:
            given, found = _responses(row.values, params), str(row.values.get(params.id))
            if found not in by_id and (row.values.get(params.prompt) is not None or params.id not in row.values):
                found = by_prompt.get(asking.same(_text(row.values, params.prompt)), "")
        except UnfitError as unfit:
            account.add(BadRow(where=row.where, reason=str(unfit)))
            continue
        account.read += 1
        if found in by_id:
            by_id[found] += given
        else:
            elsewhere += 1
    asking.counts["rows_of_other_prompts"] = elsewhere
    account.close(asking.counts, asking.notes)
    bad = account.bad
    if missing := [id_ for id_, found_ in by_id.items() if not found_]:
        unread = f"; {len(bad)} rows cannot be used, the first is {bad[0].where}: {bad[0].reason}" if bad else ""
        raise StageError(
            f"the recorded responses lack {len(missing)} of the {len(questions)} prompts of the split {asking.split}, "
            f"among them {', '.join(missing[:3])}{unread}",
            "Record them too. Where only the split for evaluation lacks them, --metrics without win-teacher and "
            "agreement needs none but for the teacher's own row.",
        )
    return [tuple(by_id[q.id]) for q in questions]


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
    ),
)

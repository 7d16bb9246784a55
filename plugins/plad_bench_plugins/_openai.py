"""The client of OpenAI-compatible endpoints: many requests at a time, retried, rate-limited, each answer kept at once.

The key comes from the environment and goes into one HTTP header and nowhere else. Every answer is appended to a file
as it arrives: asked again with the same response cache, `ask` sends only what is not answered yet.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from plad_bench import MissingError, Params, PladBenchError, StageError, param
from plad_bench.contract.errors import BudgetError
from plad_bench.contract.jsonlines import numbered, parse
from plad_bench.contract.money import Budget, Price

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""Back-off after the first failed try, doubled after each; no wait is longer, unless the endpoint asks for it."""
PATIENCE_S = 900.0
"""An endpoint that asks for a longer wait is given up."""
GIVE_UP_AFTER = 5
"""Requests in a row that get no answer, after which nothing more is asked."""

_RETRIED = {408, 409, 425, 429}
_ENDED = {"stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete"}
"""Why an answer ended that is whole, as OpenAI, Anthropic, TGI, Cohere and others name it. Any other reason (length,
model_length, max_tokens, content_filter, error, abort, ...) means that it is not."""


class EndpointParams(Params):
    """Where to ask, which model, how fast, and what it costs."""

    model: str = param("", source="ours")
    """The model's name at the endpoint."""
    base_url: str = param("https://api.openai.com/v1", private=True, source="ours")
    """Address of the endpoint, up to and without /chat/completions. Keys and records see its hash."""
    api: Literal["chat", "completions"] = param("chat", source="ours")
    """chat sends messages; completions sends the prompt and a line break."""
    key_env: str = param("OPENAI_API_KEY", keyed=False, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", source="ours")
    """The environment variable with the key; an endpoint on this machine may do without."""
    concurrency: int = param(8, ge=1, le=512, keyed=False, source="ours")
    """Requests under way at a time."""
    rpm: float = param(0.0, ge=0, keyed=False, source="ours")
    """Most requests per minute; 0 sets no limit."""
    timeout: float = param(120.0, gt=0, keyed=False, source="ours")
    """Seconds to wait for an answer."""
    retries: int = param(6, ge=0, keyed=False, source="ours")
    """Further tries of a request that failed for a passing reason."""
    price_in: float | None = param(None, ge=0, keyed=False, source="ours")
    """Price of a million prompt tokens, in any currency."""
    price_out: float | None = param(None, ge=0, keyed=False, source="ours")
    """Price of a million generated tokens."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        url = urlsplit(self.base_url)
        if not self.model:
            msg = "name the model: model=NAME"
            raise ValueError(msg)
        if url.scheme not in {"http", "https"} or not url.hostname:
            msg = "base_url must begin with http:// or https:// and a host"
            raise ValueError(msg)
        if url.username or url.password or url.query or url.fragment:
            msg = "base_url must hold no user, password or query: the key comes from the environment"
            raise ValueError(msg)
        if (self.price_in is None) != (self.price_out is None):
            msg = "give price_in and price_out together"
            raise ValueError(msg)
        return self

    @property
    def price(self) -> Price | None:
        """What tokens cost, if that was said."""
        if self.price_in is None or self.price_out is None:
            return None
        return Price(per_million_in=self.price_in, per_million_out=self.price_out)

    def key(self) -> str:
        """The key; empty for an endpoint on this machine without one.

        Raises:
            MissingError: if another endpoint is meant and the variable is not set.
        """
        found = os.environ.get(self.key_env, "").strip()
        if not found and urlsplit(self.base_url).hostname not in {"localhost", "127.0.0.1", "::1"}:
            raise MissingError(
                f"the endpoint of {self.model} needs a key, and {self.key_env} is not set",
                f"Set {self.key_env} in the environment, or name another variable with key_env=.",
            )
        return found

    def body(self, text: str, *, system: str = "", **options: Any) -> dict[str, Any]:
        """What is posted to ask for the continuation of a text; options, such as max_tokens, are passed on."""
        if self.api == "completions":
            asked: dict[str, Any] = {"prompt": f"{system}\n{text}\n" if system else f"{text}\n"}
        else:
            first = [{"role": "system", "content": system}] if system else []
            asked = {"messages": [*first, {"role": "user", "content": text}]}
        return {"model": self.model, **asked, **options}


@dataclass(frozen=True)
class Answer:
    """What came back for a request."""

    text: str
    """As it came; empty if the model said nothing."""
    finish: str
    """As the endpoint names it: stop, length, content_filter, ..."""
    prompt_tokens: int | None = None
    """None where the endpoint does not say."""
    completion_tokens: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the model came to an end of its own: for no other reason than those that servers give for that."""
        return self.finish.lower() in _ENDED


def ask(
    params: EndpointParams,
    requests: Mapping[str, Mapping[str, Any]],
    response_cache: Path,
    *,
    budget: Budget | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    counts: dict[str, float] | None = None,
) -> dict[str, Answer]:
    """The answer to every request, in their order; those in the response cache are not asked for again.

    Args:
        params: the endpoint.
        requests: id -> the body to post (see `EndpointParams.body`).
        response_cache: JSON lines, one for each answer, flushed as it arrives. Needs no cleaning after a kill.
        budget: what may be spent; without one nothing is counted.
        progress: told (answered, all).
        counts: gets `retried_requests`, if any.

    Raises:
        MissingError: no key, a refused key, an unknown model, no endpoint there.
        BudgetError: the budget is empty. StageError: requests stayed without an answer, with the reason of the first.
        In every case the answers that came are in the response cache.
    """
    answers = dict(_read(response_cache, requests))
    waiting = {id_: body for id_, body in requests.items() if id_ not in answers}
    progress(len(answers), len(requests))
    if waiting:
        session = _Session(params, budget or Budget(), response_cache)
        try:
            for id_, answer in session.run(waiting):
                answers[id_] = answer
                progress(len(answers), len(requests))
        finally:
            if counts is not None and session.retried:
                counts["retried_requests"] = counts.get("retried_requests", 0) + session.retried
    return {id_: answers[id_] for id_ in requests}


# -------------------------------------------------------------------------------------------------- response cache


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _read(response_cache: Path, requests: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Answer]]:
    """The answers of an earlier try to these very requests: whole lines, which nothing has altered since."""
    if not response_cache.is_file():
        return
    for _, line in numbered(io.BytesIO(response_cache.read_bytes())):
        try:
            row = parse(line)
            answer = Answer(**row["answer"])
            whole = "check" not in row or row.pop("check") == _digest(row)  # older response caches have no checks
        except (ValueError, KeyError, TypeError):
            continue
        if whole and (body := requests.get(row.get("id"))) is not None and row.get("asked") == _digest(body):
            yield row["id"], answer


def _append(response_cache: Path, id_: str, body: Mapping[str, Any], answer: Answer) -> None:
    said = {"id": id_, "asked": _digest(body), "answer": asdict(answer)}
    row = json.dumps({**said, "check": _digest(said)}, ensure_ascii=False)
    with response_cache.open("ab") as stream:
        # A line break before as well as after: half a line that a kill left must not swallow this one.
        stream.write(f"\n{row}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


# --------------------------------------------------------------------------------------------------------- session


class _NoAnswer(Exception):  # noqa: N818  a signal between two functions of this file
    """A try that came to nothing."""

    def __init__(
        self, reason: str, *, billed: bool = False, again: bool = True, wait: float = 0.0, reached: bool = True
    ) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait
        self.billed = billed
        """It may have to be paid for all the same."""
        self.again = again
        """It may go well the next time."""
        self.reached = reached
        """Something was there to connect to."""


@dataclass
class _Session:
    """One call of `ask`: what its threads share."""

    params: EndpointParams
    budget: Budget
    response_cache: Path
    retried: int = 0
    _state: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)
    _next: float = 0.0
    """No request starts before this moment of time.monotonic."""
    _promised: int = 0
    """Requests under way whose cost is not known yet."""
    _in_a_row: int = 0
    _failed: dict[str, _NoAnswer] = field(default_factory=dict)

    def run(self, requests: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Answer]]:
        """Ask, and yield (id, answer) as they come."""
        import httpx2

        key = self.params.key()
        client = httpx2.Client(
            base_url=self.params.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(self.params.timeout, connect=min(10.0, self.params.timeout)),
            limits=httpx2.Limits(max_connections=self.params.concurrency),
        )
        self.response_cache.parent.mkdir(parents=True, exist_ok=True)
        fatal: PladBenchError | None = None
        with client, ThreadPoolExecutor(self.params.concurrency) as pool:
            try:
                under_way = {pool.submit(self._answer, client, id_, body): id_ for id_, body in requests.items()}
                for done in as_completed(under_way):
                    try:
                        answer = done.result()
                    except PladBenchError as error:
                        self._stop.set()
                        fatal = fatal or error
                        continue
                    if answer is not None:
                        yield under_way[done], answer
            finally:
                self._stop.set()
        if fatal is not None:
            raise fatal
        if self._failed:
            raise self._unanswered(len(requests))

    def _unanswered(self, asked: int) -> PladBenchError:
        id_, first = next(iter(self._failed.items()))
        kept = "What was answered is kept: run the same command again to ask for the rest."
        if not first.reached:
            return MissingError(f"the endpoint of {self.params.model} cannot be reached: {first.reason}", kept)
        return StageError(
            f"{len(self._failed)} of {asked} requests to {self.params.model} got no answer; {id_}: {first.reason}",
            kept,
        )

    def _answer(self, client: httpx2.Client, id_: str, body: Mapping[str, Any]) -> Answer | None:
        """The answer, written to the response cache; None if there is none, or nothing more is to be asked."""
        most = self._most(body)
        for attempt in range(self.params.retries + 1):
            if not (self._wait_for_turn() and self._reserve(most)):
                return None
            try:
                return self._paid(client, id_, body, most)
            except _NoAnswer as failed:
                if not failed.again or attempt == self.params.retries:
                    self._give_up(id_, failed)
                    return None
                self._hold(failed.wait)
                self._stop.wait(max(failed.wait, backoff(attempt, random.random())))
        raise AssertionError

    def _paid(self, client: httpx2.Client, id_: str, body: Mapping[str, Any], most: float) -> Answer:
        """One try: the answer, in the response cache before anything else happens to it."""
        cost = 0.0
        try:
            answer = self._post(client, body)
            cost = self._cost(answer, most)  # due, even if the response cache cannot be written
            with self._state:
                _append(self.response_cache, id_, body, answer)
                self._in_a_row = 0
        except _NoAnswer as failed:
            cost = most if failed.billed else 0.0
            raise
        finally:
            self._settle(most, cost)
        return answer

    def _give_up(self, id_: str, failed: _NoAnswer) -> None:
        with self._state:
            self._failed[id_] = failed
            self._in_a_row += 1
            if self._in_a_row >= GIVE_UP_AFTER:
                self._stop.set()

    def _wait_for_turn(self) -> bool:
        """Wait until the rate limit, and what the endpoint asked for, let a request start; False to start none."""
        with self._state:
            now = time.monotonic()
            begin = max(now, self._next)
            if self.params.rpm:
                self._next = begin + 60.0 / self.params.rpm
        return not self._stop.wait(begin - now)

    def _hold(self, wait: float) -> None:
        """Keep every thread waiting, as the endpoint asked."""
        with self._state:
            self.retried += 1
            self._next = max(self._next, time.monotonic() + wait)

    # ------------------------------------------------------------------------------------------------------ money

    def _reserve(self, most: float) -> bool:
        """Promise the money, waiting for what is under way where that may leave enough; False to ask no more."""
        with self._state:
            while not self._stop.is_set():
                try:
                    self.budget.reserve(most)
                except BudgetError:
                    if not self._promised:
                        raise
                    self._state.wait()
                else:
                    self._promised += 1
                    return True
        return False

    def _settle(self, most: float, cost: float) -> None:
        with self._state:
            self.budget.settle(most, cost)
            self._promised -= 1
            self._state.notify_all()

    def _most(self, body: Mapping[str, Any]) -> float:
        """The most that a request can cost: a token is at least one byte."""
        price = self.params.price
        asked = len(json.dumps(body, ensure_ascii=False).encode())
        return price.of(asked, int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)) if price else 0.0

    def _cost(self, answer: Answer, most: float) -> float:
        price = self.params.price
        if price is None or answer.prompt_tokens is None or answer.completion_tokens is None:
            return most
        return price.of(answer.prompt_tokens, answer.completion_tokens)

    # ----------------------------------------------------------------------------------------------------- one try

    def _post(self, client: httpx2.Client, body: Mapping[str, Any]) -> Answer:
        import httpx2

        path = "chat/completions" if self.params.api == "chat" else "completions"
        try:
            response = client.post(path, json=dict(body))
        except httpx2.ConnectError as error:
            raise _NoAnswer(f"no connection ({error})", reached=False) from None
        except httpx2.TimeoutException:
            raise _NoAnswer(f"no answer within {self.params.timeout:g} s", billed=True) from None
        except httpx2.HTTPError as error:
            raise _NoAnswer(f"the connection broke ({type(error).__name__})", billed=True) from None
        if response.status_code == 200:
            try:
                return _read_answer(json.loads(response.content.decode("utf-8-sig", "replace")))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
                raise _NoAnswer("a reply that is not a completion in JSON", billed=True) from None
        raise self._refusal(response)

    def _refusal(self, response: httpx2.Response) -> Exception:
        """What a status other than 200 means: a _NoAnswer, or the error that ends it all."""
        status, model = response.status_code, self.params.model
        said = self._said(response)
        if status in {401, 403}:
            return MissingError(
                f"the endpoint of {model} refused the key (HTTP {status})",
                f"Put a valid key into the environment variable {self.params.key_env}.",
            )
        if status == 404:
            return MissingError(
                f"the endpoint has no model {model}, or no such address (HTTP 404){said}",
                "Check model=, base_url= (it usually ends in /v1) and api=.",
            )
        if status == 402 or "insufficient_quota" in said:
            return MissingError(f"the account of {model} has no credit left{said}", "Add credit, then run again.")
        if status in _RETRIED or status >= 500:
            wait = retry_after(response.headers.get("retry-after", ""), datetime.now(UTC))
            if wait > PATIENCE_S:
                return MissingError(
                    f"the endpoint of {model} asks to wait {wait:.0f} s (HTTP {status}){said}", "Run again later."
                )
            return _NoAnswer(f"HTTP {status}{said}", wait=wait)
        return _NoAnswer(f"HTTP {status}{said}", again=False)

    def _said(self, response: httpx2.Response) -> str:
        """The endpoint's own words, short, on one line, without the key should it repeat it."""
        text, key = response.text, os.environ.get(self.params.key_env, "").strip()
        text = text.replace(key, "[key]") if key else text
        text = " ".join(text.split())[:300]  # not before: half a key is no key that `replace` finds
        return f": {text}" if text else ""


def _read_answer(data: Any) -> Answer:
    """The answer in a reply. It may have no content, or null, or parts, of which those of text count.

    An answer whose reason to end is not said is taken for a whole one, as of servers that know none.
    """
    choice, usage = data["choices"][0], data.get("usage") or {}
    if not {"message", "text", "finish_reason"} & set(choice):
        raise TypeError
    text = (choice["message"] or {}).get("content") if "message" in choice else choice.get("text")
    if isinstance(text, list):
        text = "".join(part["text"] for part in text if part.get("type", "text") == "text")
    if not isinstance(text, str | None):
        raise TypeError
    tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    known = [int(n) if isinstance(n, int | float) and 0 <= n < math.inf else None for n in tokens]
    return Answer(_valid(text or ""), _valid(str(choice.get("finish_reason") or "stop")), *known)


def _valid(text: str) -> str:
    """A text in which U+FFFD stands for what is no Unicode, such as half of a surrogate pair: no file can hold that."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def backoff(attempt: int, luck: float) -> float:
    """Seconds to wait after try `attempt` (from 0): doubled each time, times 0.5 to 1 by `luck` of 0 to 1."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt) * (0.5 + 0.5 * luck)


def retry_after(header: str, now: datetime) -> float:
    """Seconds that a Retry-After header (a number of seconds, or a date) asks for; 0 for none or nonsense."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0

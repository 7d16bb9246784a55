"""A client of OpenAI-compatible endpoints: concurrent requests with retries, a rate limit and a response cache.

The key comes from the environment and is used in one HTTP header only. Every response is appended to a file as it
arrives: called again with the same response cache, `ask` sends only the remaining requests.
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
"""Back-off after the first failed try, doubled after each, and its maximum, unless the endpoint requests more."""
PATIENCE_S = 900.0
"""Maximum wait requested by an endpoint; a longer one is an error."""
GIVE_UP_AFTER = 5
"""Consecutive requests without a response after which no more are sent."""

_RETRIED = {408, 409, 425, 429}
_ENDED = {"stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete"}
"""Reasons for the end of a complete response, as OpenAI, Anthropic, TGI, Cohere and others name them. Any other reason
(length, model_length, max_tokens, content_filter, error, abort, ...) means that it is incomplete."""


class EndpointParams(Params):
    """The endpoint, its model, limits and prices."""

    model: str = param("", source="ours")
    """The model's name at the endpoint."""
    base_url: str = param("https://api.openai.com/v1", private=True, source="ours")
    """Address of the endpoint, up to and without /chat/completions. Keys and records contain its hash."""
    api: Literal["chat", "completions"] = param("chat", source="ours")
    """chat sends messages; completions sends the prompt and a line break."""
    key_env: str = param("OPENAI_API_KEY", keyed=False, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", source="ours")
    """The environment variable with the key, which an endpoint on this machine may not need."""
    concurrency: int = param(8, ge=1, le=512, keyed=False, source="ours")
    """Concurrent requests."""
    rpm: float = param(0.0, ge=0, keyed=False, source="ours")
    """Maximum requests per minute; 0: no limit."""
    timeout: float = param(120.0, gt=0, keyed=False, source="ours")
    """Seconds to wait for a response."""
    retries: int = param(6, ge=0, keyed=False, source="ours")
    """Further tries of a request after a temporary failure."""
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
            msg = "base_url must contain no user, password or query: the key comes from the environment"
            raise ValueError(msg)
        if (self.price_in is None) != (self.price_out is None):
            msg = "give price_in and price_out together"
            raise ValueError(msg)
        return self

    @property
    def price(self) -> Price | None:
        """The price of tokens, if it is known."""
        if self.price_in is None or self.price_out is None:
            return None
        return Price(per_million_in=self.price_in, per_million_out=self.price_out)

    def key(self) -> str:
        """The key; empty for an endpoint on this machine without one.

        Raises:
            MissingError: if the variable is not set and the endpoint is not on this machine.
        """
        found = os.environ.get(self.key_env, "").strip()
        if not found and urlsplit(self.base_url).hostname not in {"localhost", "127.0.0.1", "::1"}:
            raise MissingError(
                f"the endpoint of {self.model} needs a key, and {self.key_env} is not set",
                f"Set {self.key_env} in the environment, or choose another variable with key_env=.",
            )
        return found

    def body(self, text: str, *, system: str = "", **options: Any) -> dict[str, Any]:
        """The body of a request to continue a text, with options such as max_tokens."""
        if self.api == "completions":
            asked: dict[str, Any] = {"prompt": f"{system}\n{text}\n" if system else f"{text}\n"}
        else:
            first = [{"role": "system", "content": system}] if system else []
            asked = {"messages": [*first, {"role": "user", "content": text}]}
        return {"model": self.model, **asked, **options}


@dataclass(frozen=True)
class Answer:
    """The response to a request."""

    text: str
    """The unchanged text; empty if the model wrote nothing."""
    finish: str
    """The endpoint's reason for its end: stop, length, content_filter, ..."""
    prompt_tokens: int | None = None
    """None if the endpoint does not report it."""
    completion_tokens: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the model ended the response itself, by its reported reason."""
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
    """The responses to all requests, in their order; requests in the response cache are not sent again.

    Args:
        params: the endpoint.
        requests: id -> the body to post (see `EndpointParams.body`).
        response_cache: JSON lines, one per response, flushed as it arrives. Needs no cleaning after a kill.
        budget: the limit of spending; without one nothing is counted.
        progress: called with (responses, requests).
        counts: receives `retried_requests`, if any.

    Raises:
        MissingError: no key, a refused key, an unknown model, no endpoint at the address.
        BudgetError: the budget is spent. StageError: requests without a response, with the reason of the first.
        In every case the received responses are in the response cache.
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
    """The responses of an earlier run to the same requests, from complete and unaltered lines."""
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
        # A line break before as well as after: half a line left by a kill must not merge with this one.
        stream.write(f"\n{row}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


# --------------------------------------------------------------------------------------------------------- session


class _NoAnswer(Exception):  # noqa: N818  a signal between two functions of this file
    """A try without a response."""

    def __init__(
        self, reason: str, *, billed: bool = False, again: bool = True, wait: float = 0.0, reached: bool = True
    ) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait
        self.billed = billed
        """It may be charged nevertheless."""
        self.again = again
        """A retry may succeed."""
        self.reached = reached
        """A server accepted the connection."""


@dataclass
class _Session:
    """A call of `ask`: the state that its threads share."""

    params: EndpointParams
    budget: Budget
    response_cache: Path
    retried: int = 0
    _state: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)
    _next: float = 0.0
    """No request starts before this moment of time.monotonic."""
    _promised: int = 0
    """Requests in progress whose cost is not known yet."""
    _in_a_row: int = 0
    _failed: dict[str, _NoAnswer] = field(default_factory=dict)

    def run(self, requests: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Answer]]:
        """Send the requests, and yield (id, response) as they arrive."""
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
        kept = "The received responses are kept: run the same command again for the rest."
        if not first.reached:
            return MissingError(f"the endpoint of {self.params.model} cannot be reached: {first.reason}", kept)
        return StageError(
            f"{len(self._failed)} of {asked} requests to {self.params.model} got no response; {id_}: {first.reason}",
            kept,
        )

    def _answer(self, client: httpx2.Client, id_: str, body: Mapping[str, Any]) -> Answer | None:
        """The response, written to the response cache; None if there is none, or no more requests may be sent."""
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
        """One try: the response, written to the response cache at once."""
        cost = 0.0
        try:
            answer = self._post(client, body)
            cost = self._cost(answer, most)  # due even if the response cache cannot be written
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
        """Wait until the rate limit and the endpoint's requested waits allow a request; False to start none."""
        with self._state:
            now = time.monotonic()
            begin = max(now, self._next)
            if self.params.rpm:
                self._next = begin + 60.0 / self.params.rpm
        return not self._stop.wait(begin - now)

    def _hold(self, wait: float) -> None:
        """Delay all threads as the endpoint requested."""
        with self._state:
            self.retried += 1
            self._next = max(self._next, time.monotonic() + wait)

    # ------------------------------------------------------------------------------------------------------ money

    def _reserve(self, most: float) -> bool:
        """Reserve money, waiting for requests in progress if they may leave enough; False to send no more."""
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
        """The maximum cost of a request: a token has at least one byte."""
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
            raise _NoAnswer(f"no response within {self.params.timeout:g} s", billed=True) from None
        except httpx2.HTTPError as error:
            raise _NoAnswer(f"the connection broke ({type(error).__name__})", billed=True) from None
        if response.status_code == 200:
            try:
                return _read_answer(json.loads(response.content.decode("utf-8-sig", "replace")))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
                raise _NoAnswer("a response that is not a completion in JSON", billed=True) from None
        raise self._refusal(response)

    def _refusal(self, response: httpx2.Response) -> Exception:
        """The error of a status other than 200: a _NoAnswer, or one that ends the call."""
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
                    f"the endpoint of {model} requests a wait of {wait:.0f} s (HTTP {status}){said}", "Run again later."
                )
            return _NoAnswer(f"HTTP {status}{said}", wait=wait)
        return _NoAnswer(f"HTTP {status}{said}", again=False)

    def _said(self, response: httpx2.Response) -> str:
        """The endpoint's own message, short, on one line, and without the key if it repeats it."""
        text, key = response.text, os.environ.get(self.params.key_env, "").strip()
        text = text.replace(key, "[key]") if key else text
        text = " ".join(text.split())[:300]  # only after removing the key: `replace` cannot find half of one
        return f": {text}" if text else ""


def _read_answer(data: Any) -> Answer:
    """The response in a reply. Its content may be absent, null, or a list of parts, of which text parts count.

    A response without a reported reason counts as complete, since some servers report none.
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
    """A text with U+FFFD in place of invalid Unicode, such as half of a surrogate pair, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def backoff(attempt: int, luck: float) -> float:
    """Seconds to wait after try `attempt` (from 0): doubled each time, times 0.5 to 1 by `luck` of 0 to 1."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt) * (0.5 + 0.5 * luck)


def retry_after(header: str, now: datetime) -> float:
    """Seconds requested by a Retry-After header (a number of seconds, or a date); 0 for none or an invalid one."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError):
        return 0.0

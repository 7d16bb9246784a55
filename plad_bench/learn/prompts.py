"""Formats prompts for a model: by its chat template, and so that text never acts as a control token.

A control token is a special token of the tokenizer, or an added token such as `<think>` that the chat template
writes. Text of a data set or of a teacher may spell one ("<|im_end|>", "<s>"); it is then encoded as ordinary
characters. Only the chat template, and the frame that a tokenizer puts around a text, produce control tokens.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from plad_bench.contract import hub
from plad_bench.contract.errors import StageError
from plad_bench.contract.models import PromptFormat

SETTINGS = "plad_bench_prompts"
"""The key of tokenizer_config.json for the prompt format, which every checkpoint inherits from its base model."""
THOUGHT, ANSWER = "<think>", "</think>"
"""The marks around the thinking text of thinking models."""

Messages = Sequence[Mapping[str, str]]
_TAG = re.compile(r"[<\[].+[>\]]")
_DATE = re.compile(r"""strftime_now\(\s*(?:'([^']*)'|"([^"]*)")\s*\)""")


def apply_format(tokenizer: PreTrainedTokenizerBase, format_: PromptFormat, name: str) -> None:
    """Store a prompt format in a tokenizer.

    Raises:
        MissingError: if the format requires a chat template and the tokenizer of the model `name` has none.
    """
    if format_.template == "chat" and not tokenizer.chat_template:
        raise hub.no_template(name)
    if format_.template not in {"", "chat"}:
        tokenizer.chat_template = None if format_.template == "none" else format_.template
    tokenizer.init_kwargs[SETTINGS] = {name: v for name, v in format_.document().items() if name != "template"}


def format_of(tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """The prompt format stored in a tokenizer, without the template, which is the tokenizer's own."""
    kept = tokenizer.init_kwargs.get(SETTINGS) or {}
    return PromptFormat(**{f.name: kept[f.name] for f in fields(PromptFormat) if f.name in kept})


# ----------------------------------------------------------------------------------------------------- chat templates


class Chat:
    """A tokenizer's chat template under a prompt format."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, format_: PromptFormat) -> None:
        """Use the tokenizer's template.

        Raises:
            StageError: if the template asks for today's date in a form that the format's date cannot replace.
        """
        self.tokenizer, self.format = tokenizer, format_
        published = tokenizer.get_chat_template()
        self.template = _DATE.sub(self._dated, published)
        self.dated = self.template != published
        if re.search(r"strftime_now\s*\(", self.template):
            raise StageError(
                "the chat template asks for today's date in a form that cannot be fixed, so prompts would differ "
                "from day to day",
                "Pass template_file=FILE, a copy that calls strftime_now with a literal format.",
            )

    def _dated(self, call: re.Match[str]) -> str:
        return json.dumps(date.fromisoformat(self.format.date).strftime(call[1] or call[2] or ""))

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The turns before the response: a system prompt, if the format has one, and the user's."""
        system = [{"role": "system", "content": self.format.system}] if self.format.system else []
        return [*system, {"role": "user", "content": self.format.instructed(prompt)}]

    def render(self, messages: Messages, *, reply: bool = True) -> str:
        """The text of some turns, with the beginning of the response if requested.

        Raises:
            StageError: if the template refuses them.
        """
        from jinja2 import TemplateError

        thinks = self.format.thinking != "off"
        try:
            text = self.tokenizer.apply_chat_template(
                list(map(dict, messages)),
                chat_template=self.template,
                add_generation_prompt=reply,
                tokenize=False,
                enable_thinking=thinks,
                thinking=thinks,
            )
        except (TemplateError, TypeError, ValueError) as error:
            remedy = "Pass the text as instruction= instead of system=." if self.format.system else ""
            raise StageError(
                f"the chat template fails: {error}", remedy or "Pass template_file=FILE, or template=none."
            ) from error
        if self.format.system and messages[0]["role"] == "system" and messages[0]["content"].strip() not in text:
            raise StageError("the chat template leaves out the system prompt", "Pass the text as instruction= instead.")
        return str(text)

    def after_reply(self) -> str:
        """The text that the template writes after a response; empty if it writes no responses."""
        reply = f"reply {secrets.token_hex(8)}"
        try:
            text = self.render([*self.messages("prompt"), {"role": "assistant", "content": reply}], reply=False)
        except StageError:
            return ""
        return text.rpartition(reply)[2] if reply in text else ""


# ----------------------------------------------------------------------------------------------------- control tokens


class Spelling:
    """Encodes text so that spelled control tokens are ordinary characters."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        named = set(tokenizer.all_special_tokens)

        def controls(token: AddedToken) -> bool:
            written = _TAG.fullmatch(token.content) is not None and token.content in template
            return token.special or token.content in named or written

        added = tokenizer.added_tokens_decoder
        self.control = {token.content: number for number, token in added.items() if controls(token)}
        self._ids = frozenset(self.control.values())
        self._frames: dict[tuple[str, ...], list[int]] = {}
        """The control tokens of the template around plain contents, by the roles of the turns."""

    def text(self, text: str, *, framed: bool = False) -> tuple[list[int], int]:
        """Token ids of a text, with the tokenizer's frame if requested, and the number of control tokens it spells."""
        ids = self._encode(text, framed=framed)
        if self.controls(ids) == (self._frame((), lambda: self._encode("", framed=True)) if framed else []):
            return ids, 0
        if self._apart is None:
            safe = list(self._splitting(text, add_special_tokens=framed)["input_ids"])
        else:
            safe = self._apart[0].encode(text, add_special_tokens=framed).ids
        return safe, max(0, len(self.controls(ids)) - len(self.controls(safe)))

    def pair(self, one: str, other: str) -> tuple[dict[str, list[int]], int]:
        """The tokenizer's output for a pair of texts, by name, and the number of control tokens they spell."""
        usual: Any = self.tokenizer(one, other)
        found = self.controls(usual["input_ids"])
        if found == self._frame(("pair",), lambda: self.tokenizer("", "")["input_ids"]):
            return dict(usual), 0
        if self._apart is None:
            safe: Any = dict(self._splitting(one, other))
        else:
            made = self._apart[0].encode(one, other)
            all_ = {"input_ids": made.ids, "attention_mask": made.attention_mask, "token_type_ids": made.type_ids}
            safe = {name: all_[name] for name in usual}
        return safe, max(0, len(found) - len(self.controls(safe["input_ids"])))

    def chat(self, render: Callable[[Messages], str], messages: Messages) -> tuple[list[int], int]:
        """Token ids of rendered turns, and the number of control tokens that their contents spell.

        Raises:
            StageError: if contents spell some, and the tokenizer cannot distinguish them from the template's.
        """
        ids = self._encode(render(messages))
        roles = tuple(m["role"] for m in messages)
        frame = self._frame(roles, lambda: self._encode(render([{**m, "content": "a"} for m in messages])))
        if self.controls(ids) == frame:
            return ids, 0
        if self._apart is None:
            raise StageError(
                "a text spells a control token, and this tokenizer cannot distinguish it from the chat template's",
                "Save the tokenizer as tokenizer.json, or leave out such text.",
            )
        apart, names = self._apart
        # The contents' control tokens are hidden from the template; then the template's own are renamed.
        hidden = {token: f"\ue000{secrets.token_hex(8)}\ue001" for token in names}
        text = render([{**m, "content": _replaced(m["content"], hidden)} for m in messages])
        shown = _replaced(_replaced(text, names), {other: token for token, other in hidden.items()})
        safe = apart.encode(shown, add_special_tokens=False).ids
        return safe, max(0, len(self.controls(ids)) - len(self.controls(safe)))

    def controls(self, ids: Sequence[int]) -> list[int]:
        """The control tokens among some ids."""
        return [token for token in ids if token in self._ids]

    def _frame(self, roles: tuple[str, ...], encode: Callable[[], list[int]]) -> list[int]:
        if roles not in self._frames:
            self._frames[roles] = self.controls(encode())
        return self._frames[roles]

    def _encode(self, text: str, *, framed: bool = False) -> list[int]:
        encoded: Any = self.tokenizer(text, add_special_tokens=framed)
        return list(map(int, encoded["input_ids"]))

    @functools.cached_property
    def _splitting(self) -> Any:
        """A tokenizer in Python, which can encode control tokens as plain text itself."""
        same = copy.copy(self.tokenizer)
        same.split_special_tokens = True
        return same

    @functools.cached_property
    def _apart(self) -> tuple[Tokenizer, dict[str, str]] | None:
        """The tokenizer with random names for its control tokens, which no text can spell, and these names.

        None if the tokenizer has no `tokenizers` backend.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        nonce = secrets.token_hex(8)
        names = {token: f"\ue000{nonce}.{number}\ue001" for token, number in self.control.items()}
        return _renamed(backend, names), names


def _renamed(backend: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """A copy of a tokenizer in which some tokens have other names and the same ids."""
    settings = json.loads(backend.to_str())
    settings |= {"truncation": None, "padding": None}
    for added in settings["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    model = settings["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not names.keys() & {a, b, a + b}]
    renamed = Tokenizer.from_str(json.dumps(settings))
    assert all(renamed.token_to_id(new) == backend.token_to_id(old) for old, new in names.items())  # noqa: S101
    return renamed


def behaviour(backend: Tokenizer) -> str:
    """The settings that decide how a tokenizer encodes text.

    All settings but truncation, padding, and special tokens outside its vocabulary, which are not used here.
    """
    settings = json.loads(backend.to_str())
    own = backend.get_vocab(with_added_tokens=False)
    kept = [added for added in settings["added_tokens"] if added["content"] in own or not added["special"]]
    if not (settings["truncation"] or settings["padding"] or len(kept) < len(settings["added_tokens"])):
        return backend.to_str()
    settings |= {"truncation": None, "padding": None, "added_tokens": kept}
    return Tokenizer.from_str(json.dumps(settings)).to_str()


def _replaced(text: str, names: Mapping[str, str]) -> str:
    """A text with some of its parts replaced, the longest first."""
    parts = sorted((part for part in names if part in text), key=len, reverse=True)
    return re.sub("|".join(map(re.escape, parts)), lambda found: names[found[0]], text) if parts else text


# ----------------------------------------------------------------------------------------------------- thinking text


class Thinking:
    """How a model separates thinking text from its answer: by tokens, or by text that its template knows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.marks = tuple(vocabulary.get(mark) for mark in (THOUGHT, ANSWER))
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        self.known = self.marks[1] is not None or ANSWER in template

    def answer(self, ids: Sequence[int], *, begun: bool = False) -> str | None:
        """The text after the thinking text; None if there is none. `begun`: the prompt begins thinking text."""
        begin, end = self.marks
        if end is None:
            text = self._text(ids)
            if ANSWER in text:
                return text.rpartition(ANSWER)[2].lstrip()
            return "" if begun or text.lstrip().startswith(THOUGHT) else None
        if end in ids:
            return self._text(ids[len(ids) - list(reversed(ids)).index(end) :]).lstrip()
        return "" if begun or begin in ids else None

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

"""Convert rows of the user's data, in common formats, to examples with prompt, responses and split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plad_bench import Example
from plad_bench_plugins.tasks._rows import UnfitError, checked, text

PROMPT, RESPONSE = "prompt", "response"
"""The default fields of a row."""
_CHATS = ("messages", "conversations", "conversation")
_ROLES = {
    "system": "System",
    "developer": "System",
    "user": "User",
    "human": "User",
    "assistant": "Assistant",
    "gpt": "Assistant",
    "model": "Assistant",
}
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


@dataclass
class RowReader:
    """Converts rows to examples."""

    prompt: str
    """Field with the prompt."""
    response: str
    """Field with the response, or with a list of responses; empty for data with prompts only."""
    template: str = ""
    """Template of the prompt with {field} placeholders, used instead of the prompt field."""
    split: str = ""
    """Field with a row's split; empty if there is none."""
    seen: Counter[str] = field(default_factory=Counter)
    """Remarks on how rows were converted, with the number of rows."""

    def example(self, values: Mapping[str, Any]) -> Example:
        """Convert a row to an example.

        Raises:
            UnfitError: if the row is unusable, with the reason.
        """
        prompt, reply = self._prompt_and_reply(values)
        return Example(
            prompt=prompt,
            references=self._responses(values, reply) if self.response else (),
            split=self._split(values) if self.split else None,
        )

    def remarks(self) -> str:
        """The remarks since the last call, for a `Source`."""
        said = "; ".join(f"{what} ({count} row{'s' if count > 1 else ''})" for what, count in self.seen.items())
        self.seen.clear()
        return said

    def _prompt_and_reply(self, values: Mapping[str, Any]) -> tuple[str, str | None]:
        """The prompt, and the response if it is in the same field or in a field that belongs to the format."""
        if self.template:
            return self._filled(values), None
        if values.get(self.prompt) is not None or self.prompt != PROMPT:
            return self._text(values, self.prompt), None
        if (chat := next((name for name in _CHATS if values.get(name) is not None), None)) is not None:
            self.seen[f"chats in the field {chat}"] += 1
            answered = self.response == RESPONSE and values.get(RESPONSE) is None
            return _asked_and_answered(_turns(values[chat], chat), chat, answered=answered)
        if values.get("instruction") is not None:
            more = values.get("input")
            asked = [text(values, "instruction").strip(), *([self._text(values, "input")] if more else [])]
            self.seen["prompts of instruction and input"] += 1
            output = values.get("output")
            return "\n\n".join(asked), text(values, "output") if output is not None else None
        return text(values, self.prompt), None

    def _responses(self, values: Mapping[str, Any], reply: str | None) -> tuple[str, ...]:
        given = values.get(self.response)
        if given is None and self.response == RESPONSE and reply is not None:
            return (reply,)
        if not isinstance(given, list):
            return (text(values, self.response),)
        if not given:
            raise UnfitError(f"field {self.response} is an empty list")
        if all(isinstance(one, Mapping) for one in given):
            turns = _turns(given, self.response)
            return (checked(turns[-1][1], self.response),)
        return tuple(text({self.response: one}, self.response) for one in given)

    def _text(self, values: Mapping[str, Any], name: str, *, blank: bool = False) -> str:
        """The text of a field, which may be a list of texts or a chat."""
        given = values.get(name)
        if isinstance(given, list) and given and all(isinstance(one, Mapping) for one in given):
            self.seen[f"chats in the field {name}"] += 1
            return _asked_and_answered(_turns(given, name), name, answered=False)[0]
        if isinstance(given, list):
            if not all(isinstance(one, str) for one in given):
                raise UnfitError(f"field {name} is a list, but not of strings")
            self.seen[f"lists of texts in the field {name}, joined with spaces"] += 1
            given = " ".join(one.strip() for one in given)
        if blank and (given is None or (isinstance(given, str) and not given.strip())):
            if name not in values:
                raise UnfitError(f"no field {name}", missing=name)
            return ""
        return text({**values, name: given}, name)

    def _filled(self, values: Mapping[str, Any]) -> str:
        """Fill the template with the row's fields; some of them may be blank, but not all."""
        found: list[str] = []

        def put(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            found.append(self._text(values, match[1].strip(), blank=True))
            return found[-1]

        filled = _PLACE.sub(put, self.template)
        if not any(found):
            raise UnfitError(f"the fields {', '.join(fields(self.template))} are empty")
        return filled.strip()

    def _split(self, values: Mapping[str, Any]) -> str:
        named = text(values, self.split).strip().casefold()
        if named not in _SPLITS:
            raise UnfitError(f"field {self.split} is not train, validation or test")
        return _SPLITS[named]


def fields(template: str) -> list[str]:
    """The fields in a template, in order.

    Raises:
        ValueError: if there are none, or if a brace does not belong to a field.
    """
    if re.search(r"[{}]", _PLACE.sub("", template)):
        msg = "unmatched brace: write {field} for a field, and {{ or }} for a literal brace"
        raise ValueError(msg)
    found = [match[1].strip() for match in _PLACE.finditer(template) if match[1] is not None]
    if not found:
        msg = "the template contains no field: write {field} to insert a field"
        raise ValueError(msg)
    return found


# ------------------------------------------------------------------------------------------------------------- chats


def _turns(value: Any, name: str) -> list[tuple[str, str]]:
    """(role, text) of all turns of a chat, from the fields role and content, or from and value."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UnfitError(f"field {name} is not a list of messages")
    return [(_role(turn, name), _content(turn, name)) for turn in value]


def _role(turn: Any, name: str) -> str:
    role = (turn.get("role") or turn.get("from")) if isinstance(turn, Mapping) else None
    if not isinstance(role, str) or role.casefold() not in _ROLES:
        raise UnfitError(f"field {name} has a message whose role is not system, user or assistant")
    return _ROLES[role.casefold()]


def _content(turn: Mapping[str, Any], name: str) -> str:
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "".join(_parts(content, name))
    if not isinstance(content, str):
        raise UnfitError(f"field {name} has a message without text")
    return content


def _parts(content: list[Any], name: str) -> Iterator[str]:
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise UnfitError(f"field {name} has a message with content that is not text")
        yield part["text"]


def _asked_and_answered(turns: list[tuple[str, str]], name: str, *, answered: bool) -> tuple[str, str | None]:
    """The prompt of a chat, as one text, and its last response.

    A single user message is used as it is, below the system message if there is one. In a longer chat each turn is
    prefixed by its role, and the text ends with the prefix of the assistant's next turn.
    """
    *before, (role, last) = turns
    reply = last if role == "Assistant" else None
    asked = before if reply is not None else turns
    if not asked or asked[-1][0] != "User":
        raise UnfitError(f"field {name} does not end with a user message or a response to one")
    if answered and reply is None:
        raise UnfitError(f"field {name} does not end with an assistant message")
    if [role for role, _ in asked if role != "System"] == ["User"]:
        prompt = "\n\n".join(said.strip() for _, said in asked)
    else:
        prompt = "\n\n".join([*(f"{role}: {said.strip()}" for role, said in asked), "Assistant:"])
    return checked(prompt, name), checked(reply, name) if answered and reply is not None else None

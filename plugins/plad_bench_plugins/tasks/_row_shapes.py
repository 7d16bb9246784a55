"""What a row of the user's own data says: prompt, responses and split, in the shapes that such rows commonly have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plad_bench import Example
from plad_bench_plugins.tasks._rows import UnfitError, checked, text

PROMPT, RESPONSE = "prompt", "response"
"""The fields of a row where no others are named."""
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
class Reader:
    """Makes examples of rows."""

    prompt: str
    """The prompt's field."""
    response: str
    """The field of the response, or of a list of responses; empty for prompts alone."""
    template: str = ""
    """The prompt's text with {field} in it, in place of the prompt's field."""
    split: str = ""
    """The field that names a row's split, if there is one."""
    seen: Counter[str] = field(default_factory=Counter)
    """How rows were read that are not as plain as they could be, with how many."""

    def example(self, values: Mapping[str, Any]) -> Example:
        """The example of a row.

        Raises:
            UnfitError: if it is none; the message says why.
        """
        prompt, reply = self._prompt_and_reply(values)
        return Example(
            prompt=prompt,
            references=self._responses(values, reply) if self.response else (),
            split=self._split(values) if self.split else None,
        )

    def remarks(self) -> str:
        """What was remarkable since the last call, for a `Source`."""
        said = "; ".join(f"{what} ({count} row{'s' if count > 1 else ''})" for what, count in self.seen.items())
        self.seen.clear()
        return said

    def _prompt_and_reply(self, values: Mapping[str, Any]) -> tuple[str, str | None]:
        """The prompt, and the response to it where that stands in the same field or has a name of its own."""
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
                raise UnfitError(f"field {name} is a list of other things than texts")
            self.seen[f"lists of texts in the field {name}, joined with spaces"] += 1
            given = " ".join(one.strip() for one in given)
        if blank and (given is None or (isinstance(given, str) and not given.strip())):
            if name not in values:
                raise UnfitError(f"no field {name}", missing=name)
            return ""
        return text({**values, name: given}, name)

    def _filled(self, values: Mapping[str, Any]) -> str:
        """The template with the row's fields in it; a field may be blank, but not all of them."""
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
            raise UnfitError(f"field {self.split} names no split: train, validation or test")
        return _SPLITS[named]


def fields(template: str) -> list[str]:
    """The fields that a template names, in their order.

    Raises:
        ValueError: if it names none, or has a brace that belongs to none.
    """
    if re.search(r"[{}]", _PLACE.sub("", template)):
        msg = "a { or } that belongs to no field: write {field}, and {{ or }} for the brace itself"
        raise ValueError(msg)
    found = [match[1].strip() for match in _PLACE.finditer(template) if match[1] is not None]
    if not found:
        msg = "names no field: write {field} where the text of a field goes"
        raise ValueError(msg)
    return found


# ------------------------------------------------------------------------------------------------------------- chats


def _turns(value: Any, name: str) -> list[tuple[str, str]]:
    """(role, text) of every turn of a chat: role and content, or from and value."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UnfitError(f"field {name} is no list of messages")
    return [(_role(turn, name), _content(turn, name)) for turn in value]


def _role(turn: Any, name: str) -> str:
    role = (turn.get("role") or turn.get("from")) if isinstance(turn, Mapping) else None
    if not isinstance(role, str) or role.casefold() not in _ROLES:
        raise UnfitError(f"field {name} has a message that is not by system, user or assistant")
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
            raise UnfitError(f"field {name} has a message with other things than text")
        yield part["text"]


def _asked_and_answered(turns: list[tuple[str, str]], name: str, *, answered: bool) -> tuple[str, str | None]:
    """What a chat asks, as one text, and its last answer.

    A single question is given as it is, below a system message if there is one. Of a longer chat every turn is named by
    its role, and the text ends where the assistant would go on.
    """
    *before, (role, last) = turns
    reply = last if role == "Assistant" else None
    asked = before if reply is not None else turns
    if not asked or asked[-1][0] != "User":
        raise UnfitError(f"field {name} does not end with a message of the user, or with the answer to one")
    if answered and reply is None:
        raise UnfitError(f"field {name} does not end with a message of the assistant")
    if [role for role, _ in asked if role != "System"] == ["User"]:
        prompt = "\n\n".join(said.strip() for _, said in asked)
    else:
        prompt = "\n\n".join([*(f"{role}: {said.strip()}" for role, said in asked), "Assistant:"])
    return checked(prompt, name), checked(reply, name) if answered and reply is not None else None

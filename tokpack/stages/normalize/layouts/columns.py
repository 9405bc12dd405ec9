"""In which columns of a source the fields of a format stand: by name in any letter case, by a look at the
first rows, or as `--map` says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokpack.frozen import frozen
from tokpack.schema import PREFERENCE
from tokpack.stages.normalize import fields
from tokpack.stages.normalize.chats.plain_tools import plain_tools
from tokpack.stages.normalize.chats.roles import SPEAKERS, role_name
from tokpack.stages.normalize.chats.training import weight_in
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import Row, as_json, is_filled, plain_name, root, value_at
from tokpack.stages.normalize.formats import CHATS, FIELDS, OPTIONAL, TOKENS

NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "contents"),
    "conversations": tuple(name for name in fields.CHATS if name not in ("messages", "contents")),
    "instruction": ("instruction",),
    "output": ("output", *(name for name in fields.COMPLETIONS if name != "output")),
    "prompt": fields.PROMPTS,
    "completion": fields.COMPLETIONS,
    "chosen": fields.CHOSEN,
    "rejected": fields.REJECTED,
}
"""Required field -> columns that may hold it, best first."""
_OF_ANSWERS = ("reasoning", "label", "trained", "weight", "chat_template_kwargs")
TAKES = {
    "messages": ("system", "tools", *_OF_ANSWERS),
    "sharegpt": ("system", "tools", *_OF_ANSWERS),
    "alpaca": ("system", "tools", "history", "input", *_OF_ANSWERS),
    "prompt_completion": ("system", "tools", "history", "input", *_OF_ANSWERS),
    PREFERENCE: ("system", "tools", "history", "input", "chat_template_kwargs"),
}
"""Format -> fields that may stand beside what it needs."""


def known_fields(name: str, named: set[str]) -> set[str]:
    """The fields that `--map` may name for a format. A chat whose column is named may have its last answer in
    another one, `completion`."""
    known = {*FIELDS[name], *OPTIONAL.get(name, ()), *TAKES.get(name, ())}
    if name != TOKENS:
        known |= {"split", "skip"}
    if name in (*CHATS, PREFERENCE, "prompt_completion"):
        known |= {*SPEAKERS}
    if name == PREFERENCE:
        known |= {"better", *fields.SIDE_REASONING}
    if name in CHATS and named & FIELDS[name].keys():
        known.add("completion")
    return known


@frozen
class Columns:
    """The columns of a source with its first rows."""

    present: Sequence[str]
    rows: Sequence[Row] = ()

    def find(self, names: Iterable[str], test: Callable[[list[Any]], bool] | None = None) -> list[str]:
        """Those of `names`, in their order, that are columns, in any spelling, or lead to something.
        `test` looks at the filled values of the first rows."""
        folded = {plain_name(column): column for column in reversed(self.present)}
        found = []
        for name in names:
            first, *rest = name.split(".")
            path = name if name in self.present else folded.get(plain_name(name))
            if path is None and rest and (column := folded.get(plain_name(first))):
                path = self._nested(".".join([column, *rest]))
            if path is not None and path not in found and (test is None or test(self.values(path))):
                found.append(path)
        return found

    def _nested(self, path: str) -> str | None:
        return path if self.values(path) else None

    def values(self, path: str) -> list[Any]:
        return [value for row in self.rows if is_filled(value := value_at(row, path))]

    def fuller(self, paths: list[str]) -> str:
        """The path with most filled rows, then with most in them; the first of equals."""

        def fill(path: str) -> tuple[int, int]:
            values = self.values(path)
            return len(values), sum(len(str(value)) for value in values)

        return max(paths, key=fill)


def template_arguments(path: str | None, variables: tuple[str, ...], held: Columns) -> tuple[str, ...]:
    given = [as_json(value) for value in held.values(path)] if path else []
    names = [name for value in given if isinstance(value, dict) for name in value if is_filled(value[name])]
    return tuple(dict.fromkeys([*names, *(name for name in variables if held.values(name))]))


def template_argument(value: Any) -> Any:
    """The value of a column that is an argument of the template: `false` in a text, as in CSV, is false."""
    said = value.strip().casefold() if isinstance(value, str) else None
    return {"true": True, "false": False}[said] if said in ("true", "false") else as_json(value)


def fields_of_lists(columns: Mapping[str, str]) -> set[str]:
    """The field of conversations, where its column is called so: there a list of texts is one too."""
    return (
        {"conversations"} if columns.get("conversations", "").casefold().startswith("conversation") else set()
    )


def message_keys(name: str, columns: Mapping[str, str], held: Columns) -> tuple[str, str]:
    default = ("from", "value") if name == "sharegpt" else ("role", "content")
    if name not in CHATS:
        return default
    for messages in held.values(next(iter(columns.values()))):
        if isinstance(messages, list) and isinstance(messages[0], dict):
            return (
                ("from", "value")
                if "from" in messages[0] and "role" not in messages[0]
                else ("role", "content")
            )
    return default


def needed_columns(name: str, given: Mapping[str, str], held: Columns) -> tuple[dict[str, str], list[str]]:
    """The columns of the fields that a format needs, and what there is to say of the choice."""
    columns: dict[str, str] = {}
    notes: list[str] = []
    for target in FIELDS[name]:
        if target in given:
            columns[target] = given[target]
            continue
        names = NAMES.get(target, (target,))
        found = held.find(names[:1]) + [
            path
            for path in held.find(names[1:], _fit(target))
            if root(path, held.present) not in columns.values()
        ]
        found = [path for path in found if path not in columns.values()]
        found = _deepest(found)
        filled = [path for path in found if held.values(path)]
        if not filled and target == "completion":
            filled = [path for path in held.find(fields.LESSER_COMPLETIONS, _is_prompt) if held.values(path)]
            others = [c for c in held.present if fields.NUMBERED_COMPLETION.search(c)] if filled else []
            filled += [path for path in held.find(others, _is_text) if held.values(path)]
        filled = filled or found
        if target in ("completion", "output") and filled:
            columns[target] = held.fuller(filled)
        elif target == "prompt":
            columns[target] = _prompt(filled, columns, held) or names[0]
        else:
            columns[target] = (filled or [names[0]])[0]
        others = [path for path in filled if path != columns[target] and path not in ("input", "inputs")]
        if others and target in ("completion", "output", "prompt"):
            notes.append(f"{target} is {columns[target]}, and {', '.join(others)} would fit too")
    return columns, notes


def _prompt(found: list[str], columns: Mapping[str, str], held: Columns) -> str | None:
    """The first that does not hold the answer as well, as prompts that are written out for training do."""
    answers = held.find(fields.COMPLETIONS, _is_text)
    for path in found:
        pairs = [
            (value_at(row, path), value_at(row, answer))
            for row in held.rows
            for answer in answers
            if answer != path
        ]
        texts = [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str) and len(b) > 8]
        if not texts or not all(b in a for a, b in texts):
            return path
    return found[0] if found else None


def optional_column(
    name: str, target: str, given: Mapping[str, str], held: Columns, columns: Mapping[str, str]
) -> str | None:
    if target in given:
        return given[target]
    if target == "input" and name != TOKENS:
        return None  # a field beside
    whole = name == PREFERENCE and any(map(_is_whole, held.values(columns["chosen"])))
    names = fields.PAIR_PROMPTS if (name, target) == (PREFERENCE, "prompt") and not whole else (target,)
    test = None if name == TOKENS else _is_prompt
    found = [*held.find(names[:1]), *held.find(names[1:], test)]
    found = _deepest([path for path in found if path not in columns.values()])
    if name == PREFERENCE and target == "prompt" and not found and not whole:
        found = [path for path in held.find(("messages",)) if not all_end_otherwise(path, held, columns)]
    return next(iter(found), None)


def columns_beside(
    name: str, given: Mapping[str, str], held: Columns, taken: set[str], columns: Mapping[str, str]
) -> dict[str, str]:
    beside = {}
    for target in TAKES.get(name, ()):
        if target in given:
            beside[target] = given[target]
        elif target not in columns:
            found = [
                path
                for path in held.find(fields.BESIDE[target], _TESTS[target])
                if root(path, held.present) not in taken and path not in beside.values()
            ]
            if target == "tools" and not any(map(held.values, found)):
                found = [
                    path for path in held.find(fields.LESSER_TOOLS, _are_tools) if path not in taken
                ] or found
            if found:
                beside[target] = next((path for path in found if held.values(path)), found[0])
    if name == PREFERENCE:
        beside |= _reasoning_of_sides(held, taken)
    named = ("split", "skip", *fields.SIDE_REASONING)
    beside |= {target: given[target] for target in named if target in given}
    if name in CHATS and "completion" in given:
        beside["completion"] = given["completion"]
    return beside


def _reasoning_of_sides(held: Columns, taken: set[str]) -> dict[str, str]:
    for names in fields.SIDE_REASONINGS:
        found = [held.find([column], _is_reasoning) for column in names]
        columns = [path[0] for path in found if path and held.values(path[0]) and path[0] not in taken]
        if len(columns) == len(names):
            return dict(zip(fields.SIDE_REASONING, columns, strict=True))
    return {}


def other_tools(beside: Mapping[str, str], held: Columns, taken: set[str]) -> tuple[str, ...]:
    """Columns that may hold tools as well, for rows that have none in the first."""
    if "tools" not in beside:
        return ()
    used = {*beside.values()}
    return tuple(
        path
        for path in held.find(fields.BESIDE["tools"])
        if path not in used and root(path, held.present) not in taken
    )


def _deepest(paths: list[str]) -> list[str]:
    """Without those that another leads into: a text of `question.full_text` is none of `question`."""
    return [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]


# What the values of a column may be


def _is_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_input(values: list[Any]) -> bool:
    """Texts, and no lists of ids as JSON."""
    return _is_text(values) and not (values and all(isinstance(as_json(value), list) for value in values))


def _is_chat(values: list[Any]) -> bool:
    return any(as_messages(value) for value in values)


def _is_whole(answer: Any) -> bool:
    """Whether an answer is a whole conversation, which holds its prompt."""
    messages = as_messages(answer) or []
    return bool(messages) and _role(messages[0]) in ("user", "human", "system")


def all_end_otherwise(path: str, held: Columns, columns: Mapping[str, str]) -> bool:
    """Whether no chat there waits for an answer, or ends on one of the pair's."""
    return not any(_is_asked_or_chosen(row, path, columns) for row in held.rows)


def _is_asked_or_chosen(row: Row, path: str, columns: Mapping[str, str]) -> bool:
    chat = as_messages(value_at(row, path)) or []
    answers = [value_at(row, columns[side]) for side in ("chosen", "rejected")]
    said = bool(chat) and role_name(_role(chat[-1])) == "assistant"
    return bool(chat) and not (said and _text(chat) not in map(_text, answers))


def _text(answer: Any) -> Any:
    """The text of an answer, or of the last message of one."""
    messages = as_messages([answer] if isinstance(answer, Mapping) else answer)
    last = messages[-1] if messages else answer
    text = last.get("content", last.get("value")) if isinstance(last, Mapping) else last
    return text.strip() if isinstance(text, str) else text


def _role(message: Any) -> str:
    role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    return str(role).casefold()


def _is_list(values: list[Any]) -> bool:
    return any(_holds_list(as_json(value)) and as_messages(value, named=True) for value in values)


def _holds_list(value: Any) -> bool:
    """A list, or an object that holds its messages in one: `{"messages": [...]}`."""
    return isinstance(value, list) or (isinstance(value, Mapping) and isinstance(value.get("messages"), list))


def _is_prompt(values: list[Any]) -> bool:
    return not values or _is_text(values) or _is_chat(values)


def _is_reasoning(values: list[Any]) -> bool:
    texts = [value[0] if isinstance(value, list) and value else value for value in values]
    return _is_text(texts) and (
        not texts or any(text.strip().casefold() not in fields.SWITCHES for text in texts)
    )


def _is_label(values: list[Any]) -> bool:
    return bool(values) and all(str(value).casefold() in fields.TRUTHS for value in values)


def _is_weight(values: list[Any]) -> bool:
    """Numbers, or texts of numbers, as CSV has them."""
    return bool(values) and all(weight_in(value) is not None for value in values)


def _are_tools(values: list[Any]) -> bool:
    """Whether each value is a tool, or a list of some."""
    return bool(values) and all(map(_is_list_of_tools, values))


def _is_list_of_tools(value: Any) -> bool:
    tools = plain_tools(value)
    functions = [
        tool.get("function", tool) if isinstance(tool, Mapping) else None
        for tool in (tools if isinstance(tools, list) else [])
    ]
    return bool(functions) and all(
        isinstance(f, Mapping) and isinstance(f.get("name"), str) for f in functions
    )


def _is_history(values: list[Any]) -> bool:
    return not any(isinstance(value, str) and not isinstance(as_json(value), list) for value in values)


def _is_system(values: list[Any]) -> bool:
    return all(isinstance(value, str | dict | list) for value in values)


_TESTS: dict[str, Callable[[list[Any]], bool] | None] = {
    "system": _is_system,
    "tools": None,
    "history": _is_history,
    "input": _is_input,
    "reasoning": _is_reasoning,
    "label": _is_label,
    "trained": _is_label,
    "weight": _is_weight,
    "chat_template_kwargs": None,
}


def may_be(target: str, value: Any) -> bool:
    """Whether a value beside an answer is of the kind that the field holds."""
    test = _TESTS[target]
    return test is None or test([value])


def _fit(target: str) -> Callable[[list[Any]], bool] | None:
    if target in ("messages", "conversations"):
        return _is_list
    return _is_prompt if target in NAMES else None

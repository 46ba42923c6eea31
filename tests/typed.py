"""Does a decoded JSON value fit a type as an SDK declares it? For `TypedDict`s, which pydantic reads only lazily."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import typing_extensions

_WRAPPERS: tuple[Any, ...] = (
    typing.Required,
    typing.NotRequired,
    typing_extensions.Required,
    typing_extensions.NotRequired,
)
_REQUIRED: tuple[Any, ...] = (typing.Required, typing_extensions.Required)
_SCALARS: dict[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), bool: (bool,), dict: (dict,)}


@cache
def _members(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The members of a `TypedDict`: type, and whether it is required."""
    found = {}
    for name, hint in typing_extensions.get_type_hints(kind, include_extras=True).items():
        origin: Any = typing.get_origin(hint)
        inner = typing.get_args(hint)[0] if origin in _WRAPPERS else hint
        found[name] = (inner, origin in _REQUIRED or (origin is None and name in kind.__required_keys__))
    return found


def misfit(value: Any, kind: Any, at: str = "$") -> str | None:
    """Where the value does not fit, and why; None where it fits."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return misfit(value, arguments[0], at)
    if kind in (Any, object):
        return None
    if origin in (typing.Union, types.UnionType):
        faults = [misfit(value, choice, at) for choice in arguments]
        # The fault found deepest is that of the choice that was meant.
        return None if None in faults else max((fault for fault in faults if fault), key=lambda fault: fault.count("."))
    if origin is typing.Literal:
        return None if value in arguments else f"{at}: {value!r} is none of {arguments}"
    if kind is None or kind is types.NoneType:
        return None if value is None else f"{at}: {value!r} is not null"
    if typing_extensions.is_typeddict(kind):
        return _misfit_in_object(value, kind, at)
    if origin in (dict, Mapping):
        return None if isinstance(value, dict) else f"{at}: {value!r} is no object"
    if origin in (list, Iterable, Sequence) or getattr(origin, "__name__", "") == "SequenceNotStr":
        if not isinstance(value, list):
            return f"{at}: {value!r} is no list"
        faults = [misfit(item, arguments[0], f"{at}.{index}") for index, item in enumerate(value)]
        return next((fault for fault in faults if fault), None)
    if kind in _SCALARS:
        return None if type(value) in _SCALARS[kind] else f"{at}: {value!r} is no {kind.__name__}"
    return f"{at}: a {kind} is not written as JSON"


def _misfit_in_object(value: Any, kind: Any, at: str) -> str | None:
    if not isinstance(value, dict):
        return f"{at}: {value!r} is no object"
    members = _members(kind)
    for name, (_, required) in members.items():
        if required and name not in value:
            return f"{at}: {name} is missing in {kind.__name__}"
    for name, item in value.items():
        if name not in members:
            return f"{at}: {kind.__name__} has no member {name}"
        fault = misfit(item, members[name][0], f"{at}.{name}")
        if fault is not None:
            return fault
    return None

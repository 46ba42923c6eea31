"""The statements with which foreign logs are read: what was asked for, as columns, out of JSON however deep it stands.

Only text is made here. What comes from outside stands in it as a quoted literal or identifier, never as anything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from costbearer.limits import AMOUNT_USD_MAX
from costbearer.logformats.fields import Type
from costbearer.logformats.record import Ask, Form

SQL_TYPES: Mapping[Type, str] = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "boolean": "BOOLEAN",
    "usd": "DECIMAL(38,12)",
    "time": "TIMESTAMP",
}
_JSON_TYPES: Mapping[Form, Any] = {
    "text": "VARCHAR",
    "map": "MAP(VARCHAR,VARCHAR)",
    "attributes": [
        {
            "key": "VARCHAR",
            "value": dict.fromkeys(("stringValue", "intValue", "doubleValue", "boolValue"), "VARCHAR"),
        }
    ],
}
_MADE: Mapping[Form, str] = {"attributes": "named"}
"""The function that makes a map of what was read."""
_DATES = (
    "%Y-%m-%dT%H:%M:%S,%gZ",
    "%Y%m%dT%H%M%SZ",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
    "%b %d, %Y %H:%M:%S",
    "%d %b %Y %H:%M:%S",
)
"""Beside what ISO 8601 allows. A date of slashes and numbers only is not among them: day and month cannot be told."""

_DIGITS = len(str(AMOUNT_USD_MAX - 1)) + 12
# A count with a fraction is none. An amount is rounded half-even to 12 places, as `money.usd` does; the engine itself
# rounds a tie away from zero. An amount that reaches its limit is none. Seconds, milliseconds,
# microseconds and nanoseconds are told by their length.
MACROS = (
    "as_count(x) AS CASE WHEN NOT contains(x, '.') THEN TRY_CAST(x AS BIGINT) "
    "WHEN TRY_CAST(x AS DECIMAL(30,10)) = TRY_CAST(x AS BIGINT) THEN TRY_CAST(x AS BIGINT) END",
    "half_even(x, cut) AS CASE WHEN abs(x - cut) = 0.0000000000005 AND (cut * 1000000000000)::HUGEINT % 2 <> 0 "
    "THEN (cut - sign(cut - x) * 0.000000000001::DECIMAL(38,12))::DECIMAL(38,12) ELSE cut END",
    "as_usd(x) AS CAST(TRY_CAST(CASE WHEN contains(lower(x), 'e') OR substr(split_part(x, '.', 2), 13, 1) = '5' "
    "THEN coalesce(TRY(half_even(TRY_CAST(x AS DECIMAL(38,24)), TRY_CAST(x AS DECIMAL(38,12)))), "
    "TRY_CAST(x AS DECIMAL(38,12))) ELSE TRY_CAST(x AS DECIMAL(38,12)) END "
    f"AS DECIMAL({_DIGITS},12)) AS DECIMAL(38,12))",
    "places_of(x) AS CASE WHEN contains(lower(x), 'e') THEN 12 ELSE length(split_part(x, '.', 2)) END",
    "as_epoch(x) AS CASE WHEN x < 1e11 THEN make_timestamp((x * 1000000)::BIGINT) "
    "WHEN x < 1e14 THEN make_timestamp((x * 1000)::BIGINT) WHEN x < 1e17 THEN make_timestamp(x::BIGINT) "
    "ELSE make_timestamp((x / 1000)::BIGINT) END",
    "as_time(x) AS CASE WHEN substr(x, 5, 1) = '-' OR substr(x, 5, 1) = '/' "
    "THEN CASE WHEN contains(substr(x, 11), '+') OR contains(substr(x, 11), '-') "
    "THEN TRY_CAST(x AS TIMESTAMPTZ)::TIMESTAMP "
    "WHEN contains(x, ',') THEN TRY_CAST(replace(x, ',', '.') AS TIMESTAMP) ELSE TRY_CAST(x AS TIMESTAMP) END "
    "WHEN regexp_matches(x, '^[0-9]') AND TRY_CAST(x AS DOUBLE) IS NOT NULL "
    "THEN TRY(as_epoch(TRY_CAST(x AS DECIMAL(28,6)))) "
    f"WHEN regexp_matches(x, '[0-9]') THEN TRY_CAST(try_strptime(x, {list(_DATES)}) AS TIMESTAMP) END",
    "as_flag(x) AS CASE WHEN lower(x) IN ('true', 't', '1', 'yes', 'hit') THEN true "
    "WHEN lower(x) IN ('false', 'f', '0', 'no', 'miss', 'none', '') THEN false END",
    "named(x) AS TRY(map_from_entries(list_transform(x, lambda e: {'k': e.key, 'v': coalesce(e.value.stringValue, "
    "e.value.intValue, e.value.doubleValue, e.value.boolValue)})))",
    "split_tags(x) AS list_transform(x, lambda t: {'k': split_part(t, ':', 1), 'v': substr(t, strpos(t, ':') + 1)})",
    "tags_of_list(x) AS coalesce(TRY(map_from_entries(split_tags(x))), TRY(map_from_entries(list_distinct("
    "list_transform(split_tags(x), lambda e: {'k': e.k, 'v': list_filter(split_tags(x), lambda o: o.k = e.k)[1].v}))"
    ")))",
    "tags_of(x) AS CASE WHEN starts_with(ltrim(x), '[') "
    "THEN tags_of_list(TRY(json_transform(x, '[\"VARCHAR\"]'))) "
    "ELSE TRY(json_transform(x, '\"MAP(VARCHAR,VARCHAR)\"')) END",
    # To look names up in the text is faster than to make a map of it; only where something is escaped it is not sure.
    "tag_of(x, name) AS CASE WHEN contains(x, '\\') "
    "THEN tags_of_list(TRY(json_transform(x, '[\"VARCHAR\"]')))[name] WHEN contains(x, '\"' || name || ':') "
    "THEN split_part(split_part(x, '\"' || name || ':', 2), '\"', 1) END",
)


Placed = tuple[int, Ask]


def extracted(source: str, placed: Sequence[Placed], tops: Sequence[str], carried: Sequence[str] = ()) -> str:
    """What was asked for of one object, as `v0` and so on, out of the texts `c0` and so on at its first names.

    `carried` is kept as it is.
    """
    inner = {place: shape for place, top in enumerate(tops) if (shape := _shape(placed, top))}
    opened = [
        f"TRY(json_transform(c{place}, {literal(json.dumps(shape))})) AS i{place}" for place, shape in inner.items()
    ]
    cells = [f"c{place}" for place in range(len(tops))]
    values = [f"{_value(ask, tops.index(ask.path[0]))} AS v{place}" for place, ask in placed]
    return f"SELECT {_listed(*carried, *values)} FROM (SELECT {_listed(*carried, *cells, *opened)} FROM ({source}))"


def _listed(*parts: str) -> str:
    return ", ".join(parts) or "NULL"


def _value(ask: Ask, cell: int) -> str:
    if len(ask.path) > 1:
        value = f"i{cell}" + "".join(f"[{literal(name)}]" for name in ask.path[1:])
    else:
        text = f"c{cell}"
        value = (
            text if ask.form == "text" else f"TRY(json_transform({text}, {literal(json.dumps(_JSON_TYPES[ask.form]))}))"
        )
    made = _MADE.get(ask.form)
    return value if made is None else f"{made}({value})"


def _shape(placed: Sequence[Placed], top: str) -> dict[str, Any]:
    """The structure of everything that was asked for below a name."""
    shape: dict[str, Any] = {}
    for _, ask in placed:
        if ask.path[0] != top or len(ask.path) == 1:
            continue
        place = shape
        for name in ask.path[1:-1]:
            within = place.get(name)
            if not isinstance(within, dict):
                place[name] = within = {}
            place = within
        place.setdefault(ask.path[-1], _JSON_TYPES[ask.form])
    return shape


def _tops(placed: Sequence[Placed]) -> list[str]:
    return list(dict.fromkeys(ask.path[0] for _, ask in placed))


def nested(texts: str, asks: Sequence[Ask], steps: Sequence[str]) -> str:
    """The records that stand at a path within each text, `*` being the members of an array, with what holds them."""
    depth = len(steps)
    levels: list[list[Placed]] = [[] for _ in range(depth + 1)]
    missing: list[Placed] = []
    for place, ask in enumerate(asks):
        (levels[depth - ask.up] if ask.up <= depth else missing).append((place, ask))
    sql, carried = f"SELECT * FROM ({texts}) WHERE t IS NOT NULL", ["line"]
    for level, placed in enumerate(levels):
        tops = _tops(placed)
        shape: Any = dict.fromkeys(tops, "VARCHAR")
        members = []
        array = False
        if level < depth:
            names = steps[level].split("|")
            array = names == ["*"]
            shape = ["JSON"] if array else shape | (dict.fromkeys(names, "JSON") if names[1:] else {names[0]: ["JSON"]})
            members = [f"{'j' if array else _members(names)} AS members"]
            tops = [] if array else tops
        here = [] if array and level < depth else placed
        cells = [f"j[{literal(top)}] AS c{place}" for place, top in enumerate(tops)]
        read = f"SELECT {_listed(*carried, f'TRY(json_transform(t, {literal(json.dumps(shape))})) AS j')} FROM ({sql})"
        read = f"SELECT {_listed(*carried, *members, *cells)} FROM ({read})"
        sql = extracted(read, here, tops, [*carried, *(["members"] if members else [])])
        carried += [f"v{place}" for place, _ in here]
        if members:
            sql = f"SELECT {_listed(*carried, 'unnest(members) AS t')} FROM ({sql})"
            missing += [each for each in placed if each not in here]
    empty = [
        f"NULL::{'VARCHAR' if ask.form == 'text' else 'MAP(VARCHAR, VARCHAR)'} AS v{place}" for place, ask in missing
    ]
    return f"SELECT {_listed(*carried, *empty)} FROM ({sql})"


def _members(names: Sequence[str]) -> str:
    """The members of an object's array; of several names all that stands there, each with the name as its `hop`."""
    if len(names) == 1:
        return f"j[{literal(names[0])}]"
    named = (
        f"CASE json_type(j[{literal(name)}]) "
        f"WHEN 'ARRAY' THEN list_transform(json_transform(j[{literal(name)}], '[\"JSON\"]'), "
        f"lambda each: json_object('hop', {literal(name)}, 'value', each)::JSON) "
        f"WHEN 'OBJECT' THEN [json_object('hop', {literal(name)}, 'value', j[{literal(name)}])::JSON] ELSE [] END"
        for name in names
    )
    return f"flatten([{', '.join(named)}])"


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

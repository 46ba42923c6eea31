"""Expressions over the entries, with tenants and users under their newest hash (`links`).

A column is led on as late as it can be: what is filtered and added up is the hash as it is recorded, and only the
groups that come out of it, or the rows that are shown, meet the links. So a filter is one on the column itself, asked
for every hash of the values it names, and a grouping adds up the recorded hashes first and those that are one
afterwards. Where an expression does something else with such a column, the column is led on before that. An expression
that reads none is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ibis
from ibis.expr import operations

from costbearer.ledger import HASHED
from costbearer.stores import links

Alike = Callable[[str, Collection[str]], Collection[str]]
"""(field, hashes) -> every hash of the same values."""

_LINKS = ibis.table({column.name: "string" for column in links.COLUMNS}, name=links.TABLE)
_ADDED_AGAIN: Mapping[type, type] = {
    operations.Sum: operations.Sum,
    operations.Count: operations.Sum,
    operations.CountStar: operations.Sum,
    operations.Min: operations.Min,
    operations.Max: operations.Max,
}
"""What is made of the parts of a group -> what makes the whole out of those. Anything else needs the rows."""
_KEEPING_ROWS = (
    operations.Filter,
    operations.Sort,
    operations.Limit,
    operations.JoinReference,
    operations.SelfReference,
)


class _Found(NamedTuple):
    """A relation whose hashes are as recorded, and which columns of it still have to be led on: name -> field."""

    relation: Any
    owed: Mapping[str, str]


_Parents = Mapping[Any, _Found]


def followed(expression: Any, entries: Any, alike: Alike) -> Any:
    """The same expression, seen through the links as far as it reads tenants or users of the entries."""
    node = expression.op()
    made = _Following(entries.op(), alike).shown_in(node)
    return expression if made is node else made.to_expr()


class _Following:
    """One expression on its way through. A relation that stands in it twice is led through once."""

    def __init__(self, entries: Any, alike: Alike) -> None:
        self._entries, self._alike = entries, alike
        self._done: dict[Any, _Found] = {}
        self._shown: dict[Any, Any] = {}

    def shown_in(self, node: Any) -> Any:
        """A relation, or a value made of relations, with everything led on."""
        return self._shown_of(node) if isinstance(node, operations.Relation) else self._moved(node, {})

    def _shown_of(self, relation: Any) -> Any:
        if relation not in self._shown:
            self._shown[relation] = _led_on(self._recorded(relation))
        return self._shown[relation]

    def _recorded(self, relation: Any) -> _Found:
        if relation == self._entries:
            return _Found(relation, {name: name for name in HASHED})
        if relation not in self._done:
            self._done[relation] = self._followed(relation)
        return self._done[relation]

    def _followed(self, relation: Any) -> _Found:
        parents: _Parents = {child: self._recorded(child) for child in _relations_of(relation)}
        owed = _owed_by(relation, parents)
        if owed is None:
            needed = {child: _needed(relation, found) for child, found in parents.items()}
            led: _Parents = {child: _Found(_led_on(found), found.owed) for child, found in needed.items()}
            return _Found(self._moved(relation, led), {})
        made = self._moved(relation, parents)
        if owed and isinstance(relation, operations.Aggregate):
            return _Found(_grouped_again(made, owed), {})
        return _Found(made, owed)

    def _moved(self, node: Any, parents: _Parents) -> Any:
        """A node over other parents. A relation that is none of them is asked on its own, and led on."""
        if isinstance(node, operations.Relation) and node in parents:
            return parents[node].relation
        if isinstance(node, operations.InValues | operations.Equals):
            node = self._widened(node, parents)
        given = dict(zip(node.__argnames__, node.__args__, strict=True))
        moved = {name: self._moved_argument(argument, parents) for name, argument in given.items()}
        same = all(moved[name] is given[name] for name in given)
        return node if same else node.__recreate__(moved)

    def _moved_argument(self, argument: Any, parents: _Parents) -> Any:
        if isinstance(argument, operations.Relation):
            return parents[argument].relation if argument in parents else self._shown_of(argument)
        if isinstance(argument, operations.Node):
            return self._moved(argument, parents)
        if isinstance(argument, tuple):
            made = tuple(self._moved_argument(each, parents) for each in argument)
            return argument if all(new is old for new, old in zip(made, argument, strict=True)) else made
        if isinstance(argument, Mapping):
            named = {name: self._moved_argument(each, parents) for name, each in argument.items()}
            return argument if all(named[name] is each for name, each in argument.items()) else named
        return argument

    def _widened(self, node: Any, parents: _Parents) -> Any:
        """A comparison with hashes, asked for every hash of the same values."""
        asked = _asked_for(node, parents)
        if asked is None:
            return node
        column, field, hashes = asked
        every = self._alike(field, hashes)
        if set(every) == set(hashes):
            return node
        return operations.InValues(column, tuple(operations.Literal(each, "string") for each in sorted(every)))


def _relations_of(node: Any) -> Iterator[Any]:
    """The relations that a relation is made from; those that its values ask on their own are not among them."""
    left = list(node.__args__)
    while left:
        each = left.pop()
        if isinstance(each, operations.Relation):
            yield each
        elif isinstance(each, operations.JoinLink):
            left += each.__args__
        elif isinstance(each, tuple):
            left += each


def _owed_by(relation: Any, parents: _Parents) -> Mapping[str, str] | None:
    """Which columns of a relation are hashes as recorded where those of its parents are; None where its parents have
    to be led on first, because what it does with them depends on it."""
    if not any(found.owed for found in parents.values()):
        return {}
    if isinstance(relation, _KEEPING_ROWS):
        asked = getattr(relation, "predicates", ()) + getattr(relation, "keys", ())
        return None if _reads(asked, parents) else parents[relation.parent].owed
    if isinstance(relation, operations.Project):
        return _passed(relation.values, parents)
    if isinstance(relation, operations.JoinChain):
        met = [predicate for link in relation.rest for predicate in link.predicates]
        return None if _reads(met, parents) else _passed(relation.values, parents)
    if isinstance(relation, operations.Aggregate):
        owed = _passed(relation.groups, parents)
        metrics = relation.metrics.values()
        if _reads(metrics, parents) or (owed and not all(_adds(each) for each in metrics)):
            return None
        return owed
    if isinstance(relation, operations.Union) and not relation.distinct:
        left, right = parents[relation.left].owed, parents[relation.right].owed
        return left if left == right else None
    return None


def _needed(relation: Any, found: _Found) -> _Found:
    """Without the columns that end here, unread."""
    if not isinstance(relation, operations.Aggregate | operations.Project):
        return found
    read = relation.find(operations.Field, filter=lambda each: each is relation or isinstance(each, operations.Value))
    names = {each.name for each in read}
    return found._replace(owed={name: field for name, field in found.owed.items() if name in names})


def _passed(values: Mapping[str, Any], parents: _Parents) -> Mapping[str, str] | None:
    owed = {name: field for name, value in values.items() if (field := _field_of(value, parents)) is not None}
    return None if _reads((value for name, value in values.items() if name not in owed), parents) else owed


def _field_of(value: Any, parents: _Parents) -> str | None:
    """The field whose hash a value is, as recorded; what stands for a missing one may be another text."""
    if isinstance(value, operations.Field):
        found = parents.get(value.rel)
        return None if found is None else found.owed.get(value.name)
    if isinstance(value, operations.NullIf) and isinstance(value.null_if_expr, operations.Literal):
        return _field_of(value.arg, parents)
    if isinstance(value, operations.Coalesce) and all(isinstance(each, operations.Literal) for each in value.arg[1:]):
        return _field_of(value.arg[0], parents)
    return None


def _reads(values: Iterable[Any], parents: _Parents) -> bool:
    """Whether one of the values would be another if the hashes it reads were led on."""
    left = list(values)
    while left:
        node = left.pop()
        if isinstance(node, operations.Field) and _field_of(node, parents) is not None:
            return True
        if isinstance(node, operations.IsNull | operations.NotNull) and _field_of(node.arg, parents) is not None:
            continue
        if isinstance(node, operations.Value | operations.SortKey) and _asked_for(node, parents) is None:
            left += [each for each in node.__children__ if not isinstance(each, operations.Relation)]
    return False


def _asked_for(node: Any, parents: _Parents) -> tuple[Any, str, set[str]] | None:
    """Of a comparison of a recorded hash with hashes that are named: the column, its field, and the hashes."""
    sides: tuple[tuple[Any, tuple[Any, ...]], ...]
    if isinstance(node, operations.Equals):
        sides = ((node.left, (node.right,)), (node.right, (node.left,)))
    elif isinstance(node, operations.InValues):
        sides = ((node.value, node.options),)
    else:
        return None
    for column, options in sides:
        field = _field_of(column, parents)
        if field is not None and all(isinstance(each, operations.Literal) and each.value for each in options):
            return column, field, {each.value for each in options}
    return None


def _adds(metric: Any) -> bool:
    return type(metric) in _ADDED_AGAIN and not getattr(metric, "distinct", False)


def _led_on(found: _Found) -> Any:
    """The relation with the columns that are owed under their newest hash."""
    if found.owed and isinstance(found.relation, operations.Reference):
        # A join takes references alone: what one refers to is led on.
        return found.relation.copy(parent=_led_on(_Found(found.relation.parent, found.owed)))
    table = found.relation.to_expr()
    names = found.relation.schema.names
    for name, field in found.owed.items():
        own = _LINKS.filter(_LINKS.field == field).select(led_from=_LINKS.before, led_to=_LINKS.now)
        met = table.left_join(own, table[name] == own.led_from)
        table = met.select(**{each: met.led_to.coalesce(met[name]) if each == name else met[each] for each in names})
    return table.op()


def _grouped_again(aggregate: Any, owed: Mapping[str, str]) -> Any:
    """Groups of recorded hashes as groups of values."""
    parts = _led_on(_Found(aggregate, owed))
    groups = {name: operations.Field(parts, name) for name in aggregate.groups}
    metrics = {}
    for name, metric in aggregate.metrics.items():
        whole = _ADDED_AGAIN[type(metric)](operations.Field(parts, name))
        metrics[name] = whole if whole.dtype == metric.dtype else operations.Cast(whole, metric.dtype)
    return operations.Aggregate(parts, groups, metrics)

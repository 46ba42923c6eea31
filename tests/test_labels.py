"""Labels: what is a name and what is not, at the doors and in the words of the database's own constraint."""

from __future__ import annotations

import sqlite3
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.errors import FieldInvalid
from costbearer.labels import (
    BLANKS,
    INVISIBLES,
    LABEL_CHARS_MAX,
    PLACEHOLDERS,
    Labels,
    check_labels,
    cleaned,
    fault,
    folded,
    is_blank,
)
from costbearer.stores.control_schema import label_check

GOOD = {"owner": "ada@example.org", "team": "search", "agent": "ranker", "workload": "nightly re-rank"}

BLANK = [
    "",
    " ",
    "\t\n",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\u200b \ufeff",
    "\u2060",
    "\u00ad",
    "\u2800",
    "\u3164",
    "\u115f",
]
PLACEHOLDER = [
    *(
        "n/a",
        "N/A",
        "na",
        "n.a.",
        "N. A.",
        "none",
        "None",
        "NONE",
        "(none)",
        "<none>",
        "null",
        "NULL",
        "nil",
        "unknown",
    ),
    *("Unknown!", "default", "DEFAULT", "test", "Test", "todo", "TO DO", "to-do", "tbd", "T.B.D.", "unassigned", "x"),
    *(
        "xxx",
        "XXXX",
        "[unknown]",
        "'none'",
        "not set",
        "not_set",
        "ｎ／ａ",
        "ＮＯＮＥ",
        "tmp",
        "changeme",
        "...none...",
    ),
]
EMPTY_SIGNS = ["-", "--", "---", "?", "??", ".", "...", "_", "/", "*", "—", "…", "\U0001f680"]
REAL = [
    *("ada", "Ada Lovelace", "team-7", "test-runner", "unknown-soldiers", "C++", "7", "日本語チーム", "Größe", "naïve"),
    *("none of the above", "nadia", "xavier", "default-model router", "a/b testing", "défaut", "x1"),
]


@pytest.mark.parametrize("text", BLANK)
def test_a_text_that_shows_nothing_is_blank(text: str) -> None:
    assert is_blank(text)
    assert fault(text) == "blank"


@pytest.mark.parametrize("text", PLACEHOLDER)
def test_a_placeholder_is_named_as_one(text: str) -> None:
    assert fault(text) == f"{text!r} is a placeholder, not a name"


@pytest.mark.parametrize("text", EMPTY_SIGNS)
def test_signs_alone_are_no_name(text: str) -> None:
    assert fault(text) == f"{text!r} holds no letter or digit"


@pytest.mark.parametrize("text", REAL)
def test_a_real_name_passes(text: str) -> None:
    assert fault(text) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "missing"),
        (7, "must be a text"),
        (True, "must be a text"),
        (["search"], "must be a text"),
        (b"search", "must be a text"),
        ("a" * (LABEL_CHARS_MAX + 1), f"longer than {LABEL_CHARS_MAX} characters"),
        ("sea\x00rch", "holds the control or invisible character U+0000"),
        ("sea\nrch", "holds the control or invisible character U+000A"),
        ("sea\x1b[31mrch", "holds the control or invisible character U+001B"),
        ("sea\u200brch", "holds the control or invisible character U+200B"),
        ("sea\u202erch", "holds the control or invisible character U+202E"),
        ("sea\ud800rch", "holds the control or invisible character U+D800"),
    ],
)
def test_everything_else_that_is_wrong_is_said(value: object, words: str) -> None:
    assert fault(value) == words


def test_the_longest_label_passes_and_white_space_around_it_does_not_count() -> None:
    longest = "a" * LABEL_CHARS_MAX
    assert fault(f"  {longest}\u3000") is None
    assert cleaned(f"  {longest}\u3000") == longest


def test_one_look_has_one_form() -> None:
    assert cleaned("Gro\u0308\u00dfe") == cleaned("Gr\u00f6\u00dfe")


def test_every_faulty_field_is_named_at_once() -> None:
    with pytest.raises(FieldInvalid) as caught:
        check_labels({"owner": " ", "team": "n/a", "agent": 3, "cost_center": "tbd", "env": "a\x07"})
    assert caught.value.fields == {
        "owner": "blank",
        "team": "'n/a' is a placeholder, not a name",
        "agent": "must be a text",
        "workload": "missing",
        "cost_center": "'tbd' is a placeholder, not a name",
        "env": "holds the control or invisible character U+0007",
    }


def test_sound_labels_come_back_clean() -> None:
    assert check_labels({**GOOD, "team": "  search "}) == Labels(
        "ada@example.org", "search", "ranker", "nightly re-rank"
    )


@pytest.mark.parametrize("name", ["name", "env"])
def test_test_is_a_true_environment_but_the_reports_bucket_is_reserved(name: str) -> None:
    check_labels({**GOOD, name: "test"})
    with pytest.raises(FieldInvalid, match="placeholder"):
        check_labels({**GOOD, name: "(none)"})


def test_the_placeholders_are_kept_in_the_form_they_are_compared_in() -> None:
    assert {word for word in PLACEHOLDERS if folded(word) != word} == set()


def test_the_list_of_blanks_is_all_white_space_there_is() -> None:
    known = {chr(code) for code in range(0x110000) if chr(code).isspace()}
    assert set(BLANKS) == known
    assert not set(BLANKS) & set(INVISIBLES)


@pytest.fixture(scope="module")
def table() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t (label TEXT NOT NULL, CHECK ({label_check('label')}))")
    return connection


def held_by(table: sqlite3.Connection, text: str) -> bool:
    try:
        table.execute("INSERT INTO t VALUES (?)", (text,))
    except sqlite3.IntegrityError:
        return False
    table.execute("DELETE FROM t")
    return True


ASCII_BAD = [text for text in (*PLACEHOLDER, *EMPTY_SIGNS) if text.isascii()]


@pytest.mark.parametrize("text", [*BLANK, *ASCII_BAD, *sorted(PLACEHOLDERS), "a" * (LABEL_CHARS_MAX + 1)])
def test_the_database_refuses_what_the_doors_refuse(table: sqlite3.Connection, text: str) -> None:
    assert not held_by(table, text)


@pytest.mark.parametrize("text", [*REAL, "a" * LABEL_CHARS_MAX])
def test_the_database_takes_real_names(table: sqlite3.Connection, text: str) -> None:
    assert held_by(table, text)


@given(st.text(max_size=40))
def test_no_text_that_passes_the_doors_is_stopped_by_the_database(text: str) -> None:
    if fault(text) is not None:
        return
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"CREATE TABLE t (label TEXT NOT NULL, CHECK ({label_check('label')}))")
        assert held_by(connection, cleaned(text))
    connection.close()


@given(st.text(alphabet=st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp"]), max_size=10))
def test_nothing_made_of_invisible_characters_passes(text: str) -> None:
    assert fault(text) == "blank"


@given(st.sampled_from(sorted(PLACEHOLDERS)), st.sampled_from("/.-_ :'"), st.data())
def test_punctuation_inside_and_case_do_not_hide_a_placeholder(word: str, sign: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(word)))
    dressed = data.draw(st.sampled_from([str.upper, str.lower, str.title]))(f"{word[:place]}{sign}{word[place:]}")
    assert fault(dressed) is not None
    assert fault(unicodedata.normalize("NFKD", dressed)) is not None

"""Small inputs that ask for much: each door refuses them with a reason, in bounded time and memory, and goes on."""

from __future__ import annotations

import gzip
import json
import resource
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from costbearer import contract_rows, toml_text
from costbearer.audit import mapping, ownership
from costbearer.config import load
from costbearer.console import saved
from costbearer.errors import CallRefused, CostbearerError, InputInvalid
from costbearer.prices import PriceBook
from costbearer.reconcile import invoices
from costbearer.stores.logfiles import Limits, LogFile, line_of
from fuzz.calls import FAMILIES, Asked, operations
from tests.auditing import audited

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DEEP = 100_000
DIGITS = b"9" * 1_000_000
MEMORY_MB = 600
"""What the largest of these audits may hold: the engine's libraries take 240 MB of it."""

JSON: dict[str, bytes] = {
    "array": b"[" * DEEP + b"]" * DEEP,
    "object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "inside": b'{"model":"m","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "digits": b'{"model":"m","max_tokens":' + DIGITS + b',"n":' + DIGITS + b"}",
    "exponent": b'{"model":"m","max_tokens":1e999,"n":1e999,"temperature":1e999}',
    "usage": b'{"model":"m","usage":{"prompt_tokens":' + DIGITS + b',"completion_tokens":1e999},"cost":1e999}',
    "gzip": gzip.compress(b'{"model":"m"}' + b" " * 10_000_000),
    "data": b"data: " + b"[" * DEEP + b"\n\n" + b'data: {"usage":' + DIGITS + b"}\n\n",
}
TOML: dict[str, bytes] = {
    "nested": b"a = " + b"[" * DEEP,
    "digits": b"a = " + DIGITS,
    "key": b"a" + b".a" * 100_000 + b" = 1",
    "quoted key": b'"a"' + b'."a"' * 100_000 + b" = 1",
    "table": b"[" + b"a." * 100_000 + b"a]",
    "inline": b"a = { " + b"b." * 100_000 + b"b = 1 }",
    "word": b"a" * 900_000,
}


def test_no_operation_of_most_calls_falls_over_a_bomb() -> None:
    for family, place in (("openai", 0), ("anthropic", 0), ("gemini", 0), ("bedrock", 0), ("translated", 0)):
        withstands(operations(family)[place : place + 1], [JSON["inside"], JSON["usage"], JSON["data"]])


@pytest.mark.soak
@pytest.mark.parametrize("family", FAMILIES)
def test_no_operation_falls_over_a_bomb(family: str) -> None:
    withstands(operations(family), list(JSON.values()))


def withstands(asked_of: Sequence[Asked], bodies: Sequence[bytes]) -> None:
    for asked in asked_of:
        for body in bodies:
            try:
                asked.operation.read(body, asked.place)
            except CallRefused as refused:
                assert refused.http_status in {400, 404}
                assert len(refused.message) < 1000
            reading = asked.operation.whole(asked.request, body)
            assert not any(work.usage.input_tokens for work in reading.work)
            assert reading.provider_cost_usd is None
            asked.operation.shown(asked.request, 200, body)
            if asked.operation.streams:
                reader = asked.operation.stream_reader(asked.request, asked.headers)
                reader.feed(body)
                reader.rest()
                assert not reader.reading().work


def doors(place: Path) -> Iterator[tuple[str, Callable[[bytes], object]]]:
    """Everything that reads what people write, by name."""

    def of_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def door(data: bytes) -> object:
            (place / name).write_bytes(data)
            return read(place / name)

        return door

    yield "contract", contract_rows.read
    yield "views", lambda data: saved.loads(data.decode(), NOW)
    yield "settings", of_file("costbearer.toml", lambda file: load(file, environ={}))
    yield "bill", of_file("bill.csv", invoices.read)
    yield "owners as YAML", of_file("map.yaml", ownership.read)
    yield "owners as CSV", of_file("map.csv", ownership.read)
    yield "columns", of_file("columns.yaml", mapping.read)
    yield "archive", PriceBook.loads


@pytest.mark.soak
def test_no_file_that_people_write_is_a_bomb(tmp_path: Path) -> None:
    wide = {
        "wide cell": b"key,team,owner\n" + b"x" * 200_000 + b",a,b\n",
        "yaml": b"- " * 3000,
        "number": b"a: " + DIGITS,
    }
    bombs = {**{f"JSON {name}": data for name, data in JSON.items() if name != "gzip"}, **TOML, **wide}
    for name, data in bombs.items():
        for door, read in doors(tmp_path):
            began = time.process_time()
            try:
                read(data)
            except CostbearerError as refused:
                assert len(refused.message) < 2000, (name, door)
            else:
                pytest.fail(f"{door} took {name}")
            assert time.process_time() - began < 15, (name, door)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"\n{len(bombs)} bombs at {len(list(doors(tmp_path)))} doors: all refused; {held} MB at most")


def test_toml_is_read_as_the_library_reads_it() -> None:
    sound = 'a.b."c d".e = 1.50\n[x.y]\n z = { "q".r = [1, 2] }\nw = "1.2.3.4.5.6.7.8.9"\n'
    assert toml_text.parsed(sound) == tomllib.loads(sound)
    deepest = "a" + ".a" * (toml_text.KEY_PARTS_MAX - 1) + " = 1"
    assert toml_text.parsed(deepest) == tomllib.loads(deepest)
    with pytest.raises(tomllib.TOMLDecodeError, match="line 3"):
        toml_text.parsed(f"b = 1\n\n{'a.' * toml_text.KEY_PARTS_MAX}a = 1")


# -- logs


def varint(value: int) -> bytes:
    """A number as Parquet's footer writes it."""
    value <<= 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def lying(sound: bytes, rows: int, claimed: int) -> bytes:
    """A Parquet file that says it has another number of rows."""
    (size,) = struct.unpack("<I", sound[-8:-4])
    footer = sound[-8 - size : -8].replace(varint(rows), varint(claimed))
    assert footer != sound[-8 - size : -8]
    return sound[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def rows_of(count: int, **columns: Any) -> pa.Table:
    one = {"model": "gpt-4o", "input_tokens": 1, "output_tokens": 1, "cost": "0.1"}
    return pa.table({name: pa.array([value] * count) for name, value in one.items()} | columns)


def dictionary(place: Path, rows: int, size: int) -> Path:
    """One text of `size`, which every row has as its team."""
    team = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))
    pq.write_table(rows_of(rows, team=team), place / "dictionary.parquet", compression="zstd")
    return place / "dictionary.parquet"


def logs(place: Path) -> Iterator[Path]:
    """Every log that is a bomb."""
    line = b'{"model":"gpt-4o","input_tokens":1,"output_tokens":1,"cost":0.1}\n'
    made: dict[str, bytes] = {
        "many.gz": gzip.compress(b"{}\n" * 20_000_000, 9),
        "many.zst": bytes(pa.compress(b" " * 200_000_000, codec="zstd", asbytes=True)),
        "twice.gz": gzip.compress(gzip.compress(line * 1000)),
        "log.zip": b"PK\x03\x04" + bytes(100),
        "deep.jsonl": line.replace(b"0.1", b'0.1,"metadata":' + JSON["array"]) + line,
        "deep.json": b'{"data":' * DEEP,
        "digits.jsonl": line.replace(b":1,", b":" + DIGITS + b",", 1).replace(b"0.1", b"1e999") + line,
        "columns.csv": b",".join(b"c%d" % number for number in range(100_000)) + b"\n" + b"1," * 100_000 + b"\n",
    }
    for name, data in made.items():
        (place / name).write_bytes(data)
        yield place / name
    yield dictionary(place, 20_000, 10_000_000)
    rows = 123_457
    pq.write_table(rows_of(rows), place / "sound.parquet", compression="zstd")
    for claimed in (2**31 - 1, 3):
        file = place / f"says-{claimed}.parquet"
        file.write_bytes(lying((place / "sound.parquet").read_bytes(), rows, claimed))
        yield file


def test_a_text_that_stands_once_and_counts_in_every_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="expansion_ratio_max"):
        audited(dictionary(tmp_path, 500, 200_000))


@pytest.mark.soak
def test_what_counts_is_what_the_rows_come_to(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="expanded_bytes_max"):
        audited(dictionary(tmp_path, 500, 20_000), limits=Limits(expanded_bytes=1_000_000))
    assert audited(dictionary(tmp_path, 500, 2_000)).records == 500


def test_archives_that_are_not_read_are_named(tmp_path: Path) -> None:
    for start in (b"PK\x03\x04", b"BZh9", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c"):
        (tmp_path / "log").write_bytes(start + bytes(200))
        with pytest.raises(InputInvalid, match="unpack it"):
            audited(tmp_path / "log")


def test_a_cell_larger_than_the_reader_of_lines_takes_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(f"a,b\n1,2\n3,{'y' * 200_000}\n5,6\n")
    read = LogFile("log", file, "csv")
    assert [line_of(read, (), place) for place in range(3)] == [2, None, None]


WATCHED = """
import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
done = subprocess.run(sys.argv[2:], capture_output=True, text=True, errors="replace", check=False)
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024))
print(done.stdout + done.stderr)
sys.exit(done.returncode)
"""
"""Runs a command and notes how many MB it held at most. A process of its own: to the system, a child has held at least
what its parent held when it was started, and the parent of all tests may hold much."""


@pytest.mark.soak
def test_an_audit_holds_little_whatever_it_is_given(tmp_path: Path) -> None:
    """The command on each bomb, in a process whose address space is limited."""
    largest, slowest, refused = 0, 0.0, 0
    note = tmp_path / "held"
    files = list(logs(tmp_path))
    for file in files:
        audit = [sys.executable, "-m", "costbearer", "audit", str(file), "--json", "--data", str(tmp_path / "data")]
        began = time.monotonic()
        command = [sys.executable, "-c", WATCHED, str(note), *audit]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        said, held = done.stdout, int(note.read_text())
        assert done.returncode in {0, 2}, (file.name, done.returncode, said[-500:])
        assert "Traceback" not in said, (file.name, said[-500:])
        if done.returncode == 2:
            refused += 1
            assert said.rstrip().endswith("[input_invalid]"), said
        else:
            assert json.loads(said)["records"] > 0, file.name
        print(f"\n{file.name}: {file.stat().st_size:,} bytes, {held} MB, {time.monotonic() - began:.1f} s", end="")
        largest, slowest = max(largest, held), max(slowest, time.monotonic() - began)
    print(f"\n{len(files)} bombs: {refused} refused, the others read; at most {largest} MB and {slowest:.1f} s")
    assert 100 < largest < MEMORY_MB

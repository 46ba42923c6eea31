"""Foreign log files made fit for the engine: unpacked within limits, cleaned, and told apart by what is in them.

The engine reads files by itself, many rows at a time, but only sound ones: a line that is too long or a byte that is no
UTF-8 ends its reading. So every file is looked over first, at the speed of memory; one that is packed, or not sound, is
written out again beside its fellows in a directory that goes away afterwards. Nothing in a file can stop the others.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from costbearer.errors import InputInvalid
from costbearer.stores.lognames import GZIP, STDIN, ZSTD

Kind = Literal["lines", "document", "csv", "parquet", "table"]

BLOCK_BYTES = 8 * 1024 * 1024
HEAD_BYTES = 1024 * 1024
"""So much of a file is looked at to tell what it is."""
HEAD_LINES = 200
HEAD_PARQUET_BYTES = 16 * 1024 * 1024
_PARQUET = b"PAR1"
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_PACKED_OTHERWISE = (b"PK\x03\x04", b"BZh", b"\xfd7zX", b"7z\xbc\xaf")
_DELIMITERS = ",;\t|"
_RATIO_FREE_BYTES = 32 * 1024 * 1024
"""Below this size nothing is a bomb, however well it packs."""


class Limits(NamedTuple):
    """What a file may be. A line beyond `line_bytes` is left out and counted; the others end the file."""

    line_bytes: int = 16 * 1024 * 1024
    document_bytes: int = 512 * 1024 * 1024
    expanded_bytes: int = 64 * 1024 * 1024 * 1024
    expansion_ratio: int = 200


class Unread(NamedTuple):
    """Something that could not be read: the file, the line (0: the file as a whole) and why, for a person."""

    file: str
    line: int
    why: str


Told = Callable[[Unread], None]


class LogFile(NamedTuple):
    """A file that the engine can read.

    `name` is what the person called it, `path` where the engine finds it. `head` are the first values in it: objects
    or arrays of JSON, or rows of a table by column.
    """

    name: str
    path: Path
    kind: Kind
    head: tuple[Any, ...] = ()
    delimiter: str = ","
    bytes: int = 0


def opened(name: str, work: Path, limits: Limits, unread: Told) -> LogFile | None:
    """One file, ready to be read; None where there is nothing in it that can be. What is wrong is told to `unread`.

    Raises:
        InputInvalid: it cannot be opened at all, or is larger than the limits allow.
    """
    place = work / f"input-{len(list(work.iterdir()))}"
    try:
        if name == STDIN:
            with place.open("wb") as target:
                _copied(sys.stdin.buffer, target, name, limits)
            source = place
        else:
            source = Path(name)
        with source.open("rb") as handle:
            start = handle.read(4)
        if start[:2] == GZIP or start == ZSTD:
            unpacked = place.with_suffix(".unpacked")
            _unpacked(source, unpacked, name, limits, unread)
            source = unpacked
            with source.open("rb") as handle:
                start = handle.read(4)
        size = source.stat().st_size
    except OSError as error:
        raise InputInvalid(f"{name}: cannot be read: {error.strerror or error}") from None
    if not size:
        unread(Unread(name, 0, "the file is empty"))
        return None
    if start == _PARQUET:
        return LogFile(name, source, "parquet", _parquet_head(source, name, limits), bytes=size)
    if start.startswith(_PACKED_OTHERWISE):
        unread(Unread(name, 0, "packed in a way that is not read here (zip, bzip2, xz, 7z): unpack it, or use gzip"))
        return None
    if _is_binary(source):
        unread(Unread(name, 0, "neither JSON, CSV nor Parquet: it holds binary data"))
        return None
    source = _sound(source, place.with_suffix(".clean"), name, limits, unread, start)
    return _told_apart(LogFile(name, source, "lines", bytes=size), limits, unread)


def _parquet_head(source: Path, name: str, limits: Limits) -> tuple[Any, ...]:
    """The first rows, one by one: a text that stands once in a file can be the value of every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Any] = []
    size = 0
    try:
        with pq.ParquetFile(source) as parquet:
            groups = [parquet.metadata.row_group(place) for place in range(parquet.num_row_groups)]
            expanded_within(sum(group.total_byte_size for group in groups), source.stat().st_size, name, limits)
            for batch in parquet.iter_batches(batch_size=1):
                rows += batch.to_pylist()
                size += batch.nbytes
                if len(rows) == HEAD_LINES or size > HEAD_PARQUET_BYTES:
                    break
            return tuple(rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputInvalid(f"{name}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def _is_binary(source: Path) -> bool:
    """Whether what a file begins with is no text in any encoding that is read here."""
    with source.open("rb") as handle:
        head = handle.read(4096)
    if head[:2] in _UTF16:
        return False
    controls = sum(byte < 32 and byte not in b"\t\n\r" for byte in head)
    return controls * 20 > len(head)


def _copied(source: IO[bytes], target: IO[bytes], name: str, limits: Limits, packed_bytes: int | None = None) -> None:
    written = 0
    while block := source.read(BLOCK_BYTES):
        written += len(block)
        expanded_within(written, packed_bytes, name, limits)
        target.write(block)


def expanded_within(written: int, packed_bytes: int | None, name: str, limits: Limits) -> None:
    """Refuse a file of `packed_bytes` that is `written` bytes once it is unpacked, where no log is like that.

    Raises:
        InputInvalid: it is larger than a log may be, or more times its size than any log is.
    """
    if written > limits.expanded_bytes:
        raise InputInvalid(
            f"{name}: larger than {limits.expanded_bytes} bytes (audit.expanded_bytes_max); split it, or raise it"
        )
    if packed_bytes and written > _RATIO_FREE_BYTES and written > packed_bytes * limits.expansion_ratio:
        raise InputInvalid(
            f"{name}: unpacks to more than {limits.expansion_ratio} times its size (audit.expansion_ratio_max), as no "
            "log does; unpack it yourself if it is to be trusted"
        )


def _unpacked(source: Path, target: Path, name: str, limits: Limits, unread: Told) -> None:
    """What is in a gzip or zstd file, as far as it goes: one that was cut off gives what came before the cut."""
    packed = source.stat().st_size
    with target.open("wb") as out:
        try:
            with _unpacking(source) as stream:
                _copied(stream, out, name, limits, packed)
        except (EOFError, zlib.error, OSError) as error:
            unread(Unread(name, 0, f"the packed file is cut off or damaged ({error}); what came before that is read"))


def _unpacking(source: Path) -> Any:
    with source.open("rb") as handle:
        if handle.read(2) == GZIP:
            packed: Any = gzip.open(source, "rb")  # noqa: SIM115  the wrapper closes it
            return _Careful(packed)
    import pyarrow as pa

    return _Careful(pa.input_stream(str(source), compression="zstd"))


class _Careful:
    """A stream that is read in small pieces, so that all that stands before a damage comes out of it."""

    PIECE_BYTES = 64 * 1024

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self.PIECE_BYTES))

    def __enter__(self) -> _Careful:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


# -- sound text


def _sound(source: Path, target: Path, name: str, limits: Limits, unread: Told, start: bytes) -> Path:
    """A file with the same lines, which the engine can read."""
    encoding = _UTF16.get(start[:2])
    if start.lstrip()[:1] in {b"[", b"{"} and _is_one_line(source, limits):
        limits = limits._replace(line_bytes=limits.document_bytes)
    if encoding is None and not start.startswith(codecs.BOM_UTF8) and _is_sound(source, limits):
        return source if _ends_its_last_line(source) else _with_an_end(source, target)
    with source.open("rb") as handle, target.open("wb") as out:
        lines = _decoded_lines(handle, encoding) if encoding else _lines(handle, limits)
        _clean(lines, out, name, limits, unread)
    return target


def _is_one_line(source: Path, limits: Limits) -> bool:
    """Whether all of a file is one line longer than a line may be: a document that is not set over lines."""
    if not limits.line_bytes < source.stat().st_size <= limits.document_bytes:
        return False
    with source.open("rb") as handle:
        handle.readline(limits.document_bytes)
        return not handle.read(1)


def _ends_its_last_line(source: Path) -> bool:
    with source.open("rb") as handle:
        handle.seek(-1, io.SEEK_END)
        return handle.read(1) == b"\n"


def _with_an_end(source: Path, target: Path) -> Path:
    """The file with an end to its last line: without one the engine gives that line first, before all others."""
    shutil.copyfile(source, target)
    with target.open("ab") as handle:
        handle.write(b"\n")
    return target


def _is_sound(source: Path, limits: Limits) -> bool:
    """Whether every byte is UTF-8 that stands in lines of bearable length."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    since_break, pending = 0, False
    with source.open("rb", buffering=0) as handle:
        while block := handle.read(limits.line_bytes // 4):
            if pending or not block.isascii():
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    return False
                pending = bool(decoder.getstate()[0])
            since_break = 0 if b"\n" in block else since_break + len(block)
            if since_break > limits.line_bytes // 2 or b"\x00" in block:
                return False
    return not pending


def _lines(handle: IO[bytes], limits: Limits) -> Iterator[tuple[bytes, bool]]:
    """Every line without its end, and whether it was too long to be held."""
    while line := handle.readline(limits.line_bytes + 1):
        whole = line.endswith(b"\n") or len(line) <= limits.line_bytes
        if not whole:
            while (rest := handle.readline(limits.line_bytes)) and not rest.endswith(b"\n"):
                pass
        yield (line.rstrip(b"\r\n") if whole else b""), not whole


def _decoded_lines(handle: Any, encoding: str) -> Iterator[tuple[bytes, bool]]:
    handle.seek(2)
    decoded = io.TextIOWrapper(handle, encoding, "replace", newline="\n")
    for line in decoded:
        yield line.rstrip("\r\n").encode(), False
    decoded.detach()


def _clean(lines: Iterable[tuple[bytes, bool]], out: IO[bytes], name: str, limits: Limits, unread: Told) -> None:
    """Write the lines so that they can be read; what had to be changed is said. One that is too long becomes blank."""
    for number, (given, too_long) in enumerate(lines, 1):
        line = given.removeprefix(codecs.BOM_UTF8) if number == 1 else given
        if too_long:
            unread(Unread(name, number, f"the line is longer than {limits.line_bytes} bytes (audit.line_bytes_max)"))
        try:
            line.decode()
        except UnicodeDecodeError as error:
            unread(Unread(name, number, f"not UTF-8 at byte {error.start}; the rest of the line is read"))
            line = line.decode("utf-8", "replace").encode()
        out.write(line.replace(b"\x00", b"") + b"\n")


# -- what it is


def _told_apart(file: LogFile, limits: Limits, unread: Told) -> LogFile | None:
    with file.path.open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    complete = len(head) == file.path.stat().st_size
    text = head.decode("utf-8", "replace")
    lines = text.splitlines()[: HEAD_LINES + 1]
    whole = lines if complete and len(lines) <= HEAD_LINES else lines[:-1]
    values = [value for value in map(_json, whole) if isinstance(value, dict | list)]
    opening = text.lstrip()[:1]
    first = _json(next(filter(str.strip, whole), ""))
    if complete and len(values) == 1 and len(head) > limits.line_bytes and len(list(filter(str.strip, whole))) == 1:
        return file._replace(kind="document", head=tuple(values))
    # The first line of a document that is set over many lines is no value of its own.
    if values and (first is not None or opening not in "[{" or (opening == "{" and len(values) > 1)):
        return file._replace(kind="lines", head=tuple(values))
    if opening and opening in "[{":
        if file.path.stat().st_size > limits.document_bytes:
            # One that cannot be held may still be lines, the first of which are broken.
            raise InputInvalid(
                f"{file.name}: one JSON document of more than {limits.document_bytes} bytes "
                "(audit.document_bytes_max); write it as one object per line (JSONL)"
            )
        return _document(file, values, unread)
    return _tabular(file, lines, unread)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _document(file: LogFile, values: list[Any], unread: Told) -> LogFile | None:
    """A file that is one JSON value; where it is none, lines of which some can be read."""
    try:
        value = json.loads(file.path.read_bytes())
    except (ValueError, RecursionError) as error:
        if values:
            return file._replace(kind="lines", head=tuple(values))
        unread(Unread(file.name, getattr(error, "lineno", 0), f"not JSON: {getattr(error, 'msg', error)}"))
        return None
    return file._replace(kind="document", head=(value,))


def _tabular(file: LogFile, lines: list[str], unread: Told) -> LogFile | None:
    import csv

    header = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=header.count)
    if not header.count(delimiter):
        unread(Unread(file.name, 1, "neither JSON nor a table: the first line has one column"))
        return None
    try:
        rows = list(csv.DictReader(filter(str.strip, lines), delimiter=delimiter, strict=False))
    except csv.Error as error:
        unread(Unread(file.name, 1, f"not CSV: {error}"))
        return None
    head = [{key: value for key, value in row.items() if isinstance(key, str)} for row in rows]
    return file._replace(
        kind="csv", head=tuple(head) or (dict.fromkeys(next(csv.reader([header]))),), delimiter=delimiter
    )


# -- where a record stands


def line_of(file: LogFile, steps: Sequence[str], ordinal: int, rejected: Sequence[int] = ()) -> int | None:
    """The line at which the record of that number begins; None in a file without lines. `rejected` lines hold none."""
    if file.kind == "lines":
        return _line_of_text(file.path, ordinal)
    if file.kind == "csv":
        return _line_of_row(file, ordinal, frozenset(rejected))
    return _line_of_value(file.path, steps, ordinal) if file.kind == "document" else None


def _line_of_text(path: Path, ordinal: int) -> int | None:
    """Blank lines count as lines and hold no record."""
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.isspace():
                continue
            if not ordinal:
                return number
            ordinal -= 1
    return None


def _line_of_row(file: LogFile, ordinal: int, rejected: frozenset[int]) -> int | None:
    import csv

    with file.path.open(encoding="utf-8", errors="replace", newline="") as handle:
        reader = csv.reader(handle, delimiter=file.delimiter)
        begin, left = 1, ordinal + 1
        try:
            for row in reader:
                # The first row is the header.
                if row and begin not in rejected:
                    if not left:
                        return begin
                    left -= 1
                begin = reader.line_num + 1
        except csv.Error:
            # A cell before it is larger than this reader takes: the engine has read it, its line is not known.
            return None
    return None


def _line_of_value(path: Path, steps: Sequence[str], ordinal: int) -> int | None:
    """The line of a value of a document: members are told apart by their raw text, in the order in which they stand."""
    import msgspec

    data = path.read_bytes()
    places = [(0, msgspec.Raw(data))]
    for step in steps:
        inner: list[tuple[int, msgspec.Raw]] = []
        for begin, raw in places:
            after = begin
            for member in _members(raw, step):
                at = data.find(bytes(member), after)
                # Names of an object may stand in any order, members of an array may be equal.
                after = begin if "|" in step else at + 1
                inner.append((at, member))
        places = inner
    return data.count(b"\n", 0, places[ordinal][0]) + 1 if ordinal < len(places) else None


def _members(raw: Any, step: str) -> list[Any]:
    import msgspec

    try:
        if step == "*":
            return msgspec.json.decode(raw, type=list[msgspec.Raw])
        held = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        members = []
        for name in step.split("|"):
            value = held.get(name)
            if value is not None:
                is_list = bytes(value).lstrip()[:1] == b"["
                members += msgspec.json.decode(value, type=list[msgspec.Raw]) if is_list else [value]
    except msgspec.DecodeError:
        return []
    return members

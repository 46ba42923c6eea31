"""A journal read by nothing of the product's, and held to what its writer had said through a pipe."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from costbearer.journal_files import journals
from costbearer.recovery import REASON_WRITER_DIED
from tests.factories import make_entry

HEADER = struct.Struct(">4sIQI")


def raw_frames(directory: Path) -> list[dict[str, Any]]:
    """The payloads of a journal's raw segments, read by nothing of the product's: all bytes are whole frames."""
    found: list[dict[str, Any]] = []
    for file in sorted(directory.glob("*.cbj")):
        data = file.read_bytes()
        at = 0
        while at < len(data):
            magic, length, sequence, check = HEADER.unpack_from(data, at)
            payload = data[at + HEADER.size : at + HEADER.size + length]
            assert (magic, len(payload)) == (b"CBJ1", length), f"{file.name}, byte {at}"
            assert zlib.crc32(data[at + 4 : at + 16] + payload) == check, f"{file.name}, byte {at}"
            found.append({"frame": sequence, **json.loads(payload)})
            at += HEADER.size + length
    return found


def check_journal(data: Path, said: list[str]) -> None:
    """What was said is there; every intent has one outcome; no sequence is missing or there twice."""
    directories = journals(data / "journal")
    assert len(directories) <= 1
    frames = raw_frames(directories[0]) if directories else []
    assert [frame["frame"] for frame in frames] == list(range(1, len(frames) + 1))
    held = {kind: [frame["entry"] for frame in frames if frame["type"] == kind] for kind in ("intent", "outcome")}
    intents = [entry["sequence"] for entry in held["intent"]]
    ends = {entry["sequence"]: entry for entry in held["outcome"]}
    assert sorted(ends) == intents and len(held["outcome"]) == len(intents)
    for line in said:
        kind, *rest = line.split()
        if kind == "intent":
            assert directories[0].name == rest[0] and int(rest[1]) in intents, line
        elif kind == "outcome":
            end = ends[int(rest[1])]
            assert end.get("basis") == "metered", line
            assert end["cost_usd"] == str(make_entry(rest[0], int(rest[1])).cost_usd), line
    for entry in ends.values():
        assert entry.get("basis") == "metered" or entry["reason_unknown"] == REASON_WRITER_DIED

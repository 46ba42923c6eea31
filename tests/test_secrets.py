"""The data directory's secrets: made once, private, whole, and never replaced in silence."""

from __future__ import annotations

import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from costbearer.errors import StoreFailed
from costbearer.stores import secrets


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_the_keyring_is_made_private_and_read_again(tmp_path: Path) -> None:
    made = secrets.keyring(tmp_path)
    assert stat.S_IMODE((tmp_path / "keyring.json").stat().st_mode) == 0o600
    assert secrets.keyring(tmp_path) == made
    assert made.active in made.peppers
    assert made.hash_active in made.hash_keys
    assert len(made.peppers[1]) == len(made.hash_keys[1]) == 32
    assert made.peppers[1] != made.hash_keys[1]
    assert names(tmp_path) == ["keyring.json"]


def test_a_second_version_of_a_pepper_lives_beside_the_first(tmp_path: Path) -> None:
    first = secrets.keyring(tmp_path)
    file = tmp_path / "keyring.json"
    document = json.loads(file.read_text())
    document["peppers"]["2"] = base64.b64encode(b"2" * 32).decode()
    document["active"] = 2
    file.write_text(json.dumps(document))
    both = secrets.keyring(tmp_path)
    assert both.active == 2
    assert both.peppers == {1: first.peppers[1], 2: b"2" * 32}


def test_neither_keyring_nor_token_shows_itself(tmp_path: Path) -> None:
    ring = secrets.keyring(tmp_path)
    assert repr(ring) == "Keyring(peppers=[1], hash_keys=[1])"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"active": 1, "peppers": {}, "hash_active": 1, "hash_keys": {}}',
        '{"active": 1, "peppers": {"1": "c2hvcnQ="}, "hash_active": 1, "hash_keys": {"1": "c2hvcnQ="}}',
        '{"active": 1, "peppers": {"1": "?"}, "hash_active": 1, "hash_keys": {"1": "?"}}',
        '{"active": 1, "peppers": 3, "hash_active": 1, "hash_keys": {}}',
    ],
)
def test_a_damaged_keyring_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keyring.json"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(StoreFailed, match="not a keyring; restore it from a backup"):
        secrets.keyring(tmp_path)
    assert file.read_text() == text


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    secrets.keyring(tmp_path)
    secrets.admin_token(tmp_path)
    for name, read in (("keyring.json", secrets.keyring), ("admin-token", secrets.admin_token)):
        (tmp_path / name).chmod(mode)
        with pytest.raises(StoreFailed, match=r"can be read by others .* chmod 600 it"):
            read(tmp_path)


def test_what_is_missing_is_not_made_where_it_should_be_there(tmp_path: Path) -> None:
    for read in (secrets.keyring, secrets.admin_token):
        with pytest.raises(StoreFailed, match="is missing"):
            read(tmp_path, create=False)
    assert names(tmp_path) == []


def test_the_token_is_made_once(tmp_path: Path) -> None:
    token = secrets.admin_token(tmp_path)
    assert token.startswith("cba_")
    assert len(token) >= 40
    assert secrets.admin_token(tmp_path) == token
    assert stat.S_IMODE((tmp_path / "admin-token").stat().st_mode) == 0o600


def test_an_emptied_token_file_lets_nobody_in(tmp_path: Path) -> None:
    secrets.admin_token(tmp_path)
    (tmp_path / "admin-token").write_text("\n")
    with pytest.raises(StoreFailed, match="not a token"):
        secrets.admin_token(tmp_path)


def test_of_many_that_start_at_once_all_read_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: secrets.admin_token(tmp_path), range(40)))
    assert len(tokens) == 1
    assert names(tmp_path) == ["admin-token"]


def test_the_data_directory_is_made_private_and_a_file_in_its_place_is_said(tmp_path: Path) -> None:
    made = secrets.data_directory(tmp_path / "a" / "data")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match="cannot be made"):
        secrets.data_directory(tmp_path / "file")

"""The rules of the tree, held by reading the source: ranks, strangers, one home for each dangerous thing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "costbearer"

RANKS: dict[str, int] = {
    "errors": 0,
    "limits": 0,
    "money": 0,
    "toml_text": 0,
    "attribution": 1,
    "keys": 1,
    "labels": 1,
    "forms": 1,
    "usage": 1,
    "prices": 1,
    "price_archive": 1,
    "rate_card": 1,
    "rating": 1,
    "contract": 1,
    "contract_rows": 1,
    "price_changes": 1,
    "price_context": 1,
    "price_resolution": 1,
    "ledger": 1,
    "corrections": 1,
    "data": 1,
    "config": 2,
    "outbound": 2,
    "dialects": 2,
    "logformats": 2,
    "settlements": 2,
    "figures": 1,
    "owners": 1,
    "credentials": 3,
    "frames": 3,
    "journal": 3,
    "journal_files": 3,
    "recovery": 3,
    "stores": 3,
    "bookkeeper": 4,
    "rerate": 4,
    "restate": 4,
    "amortise": 4,
    "standing": 4,
    "reports": 4,
    "price_desk": 4,
    "audit": 4,
    "imports": 4,
    "backfill": 4,
    "backfill_desk": 4,
    "reconcile": 4,
    "gateway": 5,
    "console": 5,
    "simulator": 5,
    "doctor": 5,
    "jobs": 5,
    "rounds": 5,
    "app": 6,
    "console_process": 6,
    "supervisor": 6,
    "demo": 6,
    "cli": 6,
    "__main__": 6,
    "__init__": 0,
}
"""First name below the package -> rank. A module imports its own rank or lower."""

STRANGERS = [{"gateway", "console"}, {"gateway", "reports"}, {"simulator", "gateway"}, {"simulator", "console"}]

HOMES: dict[str, set[str]] = {
    "duckdb": {"stores"},
    "sqlalchemy": {"stores"},
    "alembic": {"stores"},
    "sqlite3": {"stores"},
    "ibis": {"stores", "reports", "rerate", "restate", "standing", "amortise", "logformats", "audit"},
    "httptools": {"gateway", "simulator"},
    "fastapi": {"console", "console_process"},
    "click": {"cli"},
    "botocore": {"dialects", "demo"},
    "boto3": {"demo"},
    "genai_prices": set(),
    "openai": {"demo"},
    "anthropic": {"demo"},
    "google": {"demo"},
    "xlsxwriter": {"reports"},
    "trustme": {"demo"},
    "jinja2": {"console"},
    "markupsafe": {"console"},
}
"""Library -> the only places that may import it."""

SIMULATOR_MAY_IMPORT = {"simulator", "errors"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """`gateway/pipeline.py` -> `gateway`, `money.py` -> `money`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a module's syntax tree. Each rule looks at all modules, which are parsed once."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield module, node.lineno
            if module == "costbearer":
                yield from ((f"costbearer.{alias.name}", node.lineno) for alias in node.names)


def internal(path: Path) -> Iterator[tuple[str, int]]:
    for module, line in imports(path):
        if module.startswith("costbearer."):
            yield module.split(".")[1], line


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_its_own_rank_or_lower(path: Path) -> None:
    own = name_of(path)
    assert own in RANKS, f"{own} has no rank: say where it stands in the tree"
    for target, line in internal(path):
        if target.startswith("__version__"):
            continue
        assert target in RANKS, f"{path}:{line}: {target} has no rank"
        assert RANKS[target] <= RANKS[own], f"{path}:{line}: {own} ({RANKS[own]}) imports {target} ({RANKS[target]})"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_homes(path: Path) -> None:
    own = name_of(path)
    for module, line in imports(path):
        homes = HOMES.get(module.split(".")[0])
        assert homes is None or own in homes, f"{path}:{line}: {module} belongs in {sorted(homes or ())}"


@pytest.mark.parametrize("pair", STRANGERS, ids=lambda pair: " and ".join(sorted(pair)))
def test_strangers_do_not_know_each_other(pair: set[str]) -> None:
    for path in modules():
        own = name_of(path)
        if own in pair:
            others = pair - {own}
            met = [(target, line) for target, line in internal(path) if target in others]
            assert not met, f"{path}: {met}"


def test_the_simulator_knows_nothing_of_what_it_checks() -> None:
    for path in (ROOT / "simulator").rglob("*.py"):
        for target, line in internal(path):
            assert target in SIMULATOR_MAY_IMPORT, f"{path}:{line}: the simulator imports {target}"


def test_the_environment_is_read_in_config_only() -> None:
    for path in modules():
        for node in nodes(path):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name) or node.value.id != "os":
                continue
            if node.attr in {"environ", "getenv", "environb"}:
                assert name_of(path) == "config", f"{path}:{node.lineno}: os.{node.attr}"


def test_rounding_of_money_has_one_home() -> None:
    """`quantize` and `ROUND_*` appear in money.py alone."""
    for path in modules():
        if name_of(path) in {"money", "simulator"}:
            continue
        for node in nodes(path):
            if isinstance(node, ast.Attribute):
                assert node.attr != "quantize", f"{path}:{node.lineno}: quantize outside money.py"
            if isinstance(node, ast.Name):
                assert not node.id.startswith("ROUND_"), f"{path}:{node.lineno}: {node.id} outside money.py"


def test_no_mutable_module_globals_are_rebound() -> None:
    for path in modules():
        for node in nodes(path):
            assert not isinstance(node, ast.Global), f"{path}:{node.lineno}: global"


def test_broad_excepts_are_few_and_say_why() -> None:
    found: list[str] = []
    for path in modules():
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in nodes(path):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            if broad:
                found.append(f"{path.name}:{node.lineno}")
                nearby = "\n".join(lines[max(0, node.lineno - 2) : node.lineno + 2])
                assert "#" in nearby, f"{path}:{node.lineno}: a broad except without its reason"
    assert len(found) <= 2, found


def test_sans_io_below_rank_three() -> None:
    """Modules below rank 3 open no file and no socket; config reads its file, which is what it is for."""
    forbidden = {"socket", "asyncio", "subprocess", "httpx2", "mmap", "shutil", "tempfile"}
    for path in modules():
        own = name_of(path)
        if RANKS[own] >= 3 or own == "config":
            continue
        for module, line in imports(path):
            assert module.split(".")[0] not in forbidden, f"{path}:{line}: {module}"

"""Settings: one table, read from a TOML file and the environment into one frozen value. Nobody else reads either.

Every setting is a row of `SETTINGS`; help texts, `costbearer config show` and the reference in the docs come from it.
The environment wins over the file, the file over the default; `Config.origin` remembers which it was.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from costbearer.dialects.deployments import Deployment
from costbearer.errors import ConfigInvalid
from costbearer.outbound import Outward, Way
from costbearer.toml_text import parsed

PREFIX = "COSTBEARER_"
DIALECTS = ("openai", "anthropic", "gemini", "bedrock", "azure", "cohere")
CONFIG_FILE = "costbearer.toml"


class Setting(NamedTuple):
    """One row: `name` is `section.key` in the file and PREFIX + SECTION_KEY in the environment."""

    name: str
    default: str | int | float | bool
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


SETTINGS: tuple[Setting, ...] = (
    Setting("data", "./costbearer-data", "the data directory: control store, ledger, journal, prices, secrets"),
    Setting("gateway.host", "127.0.0.1", "IP address the gateway listens on"),
    Setting("gateway.port", 4000, "port the gateway listens on", minimum=1, maximum=65535),
    Setting("gateway.tls_certificate", "", "certificate chain in PEM; with it the gateway speaks HTTPS only"),
    Setting("gateway.tls_key", "", "private key of that certificate in PEM, without a passphrase"),
    Setting("gateway.workers", 2, "worker processes", minimum=1),
    Setting("gateway.pin_workers", False, "each worker stays on a core of its own, as far as they go round"),
    Setting("gateway.body_bytes_max", 32 * 1024 * 1024, "largest request body", minimum=1024),
    Setting(
        "gateway.bodies_bytes_max",
        512 * 1024 * 1024,
        "request bodies under way, per worker, those up to 64 KiB left out; one key has at most half",
        minimum=1024,
    ),
    Setting("gateway.body_timeout_s", 30.0, "time for a caller to send its whole body", minimum=0.1),
    Setting("gateway.reply_bytes_max", 64 * 1024 * 1024, "largest reply, whole or streamed", minimum=1024),
    Setting("gateway.drain_timeout_s", 25.0, "time for running calls to end after SIGTERM", minimum=0),
    Setting("gateway.connections_max", 10_000, "open connections, per worker", minimum=1),
    Setting("gateway.connections_per_client_max", 512, "open connections from one address, per worker", minimum=1),
    Setting("gateway.stall_timeout_s", 60.0, "how long a caller may take next to nothing of its reply", minimum=0.1),
    Setting("gateway.retries", 1, "further attempts at the same upstream where it is safe", minimum=0),
    Setting(
        "gateway.retry_after_max_s",
        2.0,
        "longest wait before a retry; a longer Retry-After leads to the next upstream, the last one's to the caller",
        minimum=0,
    ),
    Setting("upstream.connect_timeout_s", 10.0, "time to connect, TLS included", minimum=0.1),
    Setting(
        "upstream.first_byte_timeout_s", 300.0, "time from the request to the first byte of the reply", minimum=0.1
    ),
    Setting("upstream.idle_timeout_s", 120.0, "longest silence inside a reply", minimum=0.1),
    # Providers behind Node or uvicorn close after 5 s and do not say so.
    Setting(
        "upstream.keep_alive_s",
        4.0,
        "how long an idle connection is kept; less where the provider states that it closes earlier",
        minimum=0,
    ),
    Setting(
        "upstream.connection_age_s",
        300.0,
        "how long a connection is used: changes of DNS are then followed",
        minimum=1,
    ),
    Setting(
        "upstream.proxy",
        "",
        "proxy to every provider but those in NO_PROXY; if empty, as HTTPS_PROXY and HTTP_PROXY say; direct: none",
    ),
    Setting("upstream.ca_file", "", "authorities in PEM that are trusted instead of the system's; read at start"),
    Setting("upstream.connections_max", 1000, "open connections to one provider, per worker", minimum=1),
    Setting("console.host", "127.0.0.1", "address the console listens on"),
    Setting("console.port", 4001, "port the console listens on", minimum=1, maximum=65535),
    Setting("console.hosts", "", "further names the console is reached by, with commas between them"),
    Setting(
        "journal.sync",
        "group",
        "group: fsync at most 50 ms apart; always: every call waits for it",
        ("group", "always"),
    ),
    Setting("journal.sync_interval_ms", 50, "longest time between a frame and its fsync", minimum=1),
    Setting("journal.segment_bytes", 8 * 1024 * 1024, "a segment is closed at this size", minimum=4096, maximum=2**28),
    Setting("journal.segment_s", 300.0, "a segment is closed at this age", minimum=1),
    Setting("ledger.post_interval_ms", 200, "how often the bookkeeper looks for new frames", minimum=10),
    Setting("ledger.poll_interval_s", 5.0, "how often results of background work may be asked for", minimum=0.1),
    Setting("control.stale_max_s", 900.0, "how long keys stay valid while the control store cannot be read", minimum=1),
    Setting("ledger.memory_mb", 384, "memory the ledger's engine takes before it writes to disk", minimum=128),
    Setting("reports.time_zone", "UTC", "time zone of days, weeks and months in reports, such as Europe/Berlin"),
    Setting("audit.memory_mb", 1200, "memory an audit's engine takes before it writes to disk", minimum=256),
    Setting("audit.line_bytes_max", 16 * 1024 * 1024, "longest line of a log; a longer one is left out", minimum=4096),
    Setting("audit.document_bytes_max", 512 * 1024 * 1024, "largest log that is one JSON document", minimum=4096),
    Setting("audit.expanded_bytes_max", 64 * 1024**3, "largest log, unpacked", minimum=4096),
    Setting("audit.expansion_ratio_max", 200, "how many times its size a packed log may unpack to", minimum=2),
    Setting("keys.expire_days", 90, "a new key's life unless it is issued with another", minimum=1),
)

_PROVIDER_KEYS = {
    "like",
    "dialect",
    "base_url",
    "api_key_env",
    "api_key_file",
    "cost_header",
    "price_provider",
    "request_id_headers",
    "deployments",
    "proxy",
    "ca_file",
    "client_certificate",
    "client_key",
}
_DEPLOYMENT_KEYS = {"model", "tier", "geo"}
_ROUTE_KEYS = {"model", "upstreams"}


@dataclass(frozen=True, slots=True)
class Provider:
    """One upstream: its dialect, its base URL and its credential are one setting and never mix with another's.

    `price_provider` names the provider in the price archive whose rates hold here (the provider's own name if unset).
    `cost_header` names a reply header in which the provider states the cost in USD, `request_id_headers` those in which
    it states its own id of the call, if not where its dialect does. `credential` is empty where a server needs none.
    `deployments` says of names at this provider (Azure's deployments, Bedrock's ARNs) which model they are.
    `credential_file` is where the credential was read, if it was in a file: others may stand there later.
    `way` is how it is reached: by which proxy, trusting whom, with which certificate of our own.
    """

    name: str
    dialect: str
    base_url: str
    credential: str = field(repr=False)
    cost_header: str | None = None
    price_provider: str = ""
    request_id_headers: tuple[str, ...] = ()
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    credential_file: Path | None = None
    way: Way = field(default_factory=Way)


@dataclass(frozen=True, slots=True)
class Route:
    """First match wins. `model` may end in or contain `*`; each upstream is `provider` or `provider/model`."""

    model: str
    upstreams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting by its name, the providers and the routes. `values["gateway.port"]`, `config.number(...)`."""

    data: Path
    values: Mapping[str, str | int | float | bool]
    origin: Mapping[str, str]
    providers: Mapping[str, Provider]
    routes: tuple[Route, ...]

    def text(self, name: str) -> str:
        return str(self.values[name])

    def integer(self, name: str) -> int:
        return int(self.values[name])

    def number(self, name: str) -> float:
        return float(self.values[name])

    def flag(self, name: str) -> bool:
        return bool(self.values[name])

    def names(self, name: str) -> tuple[str, ...]:
        """A list that is written with commas."""
        return tuple(part.strip() for part in self.text(name).split(",") if part.strip())

    @property
    def gateway_url(self) -> str:
        """Where this host's callers reach the gateway; one that listens on every address is reached by loopback."""
        host = self.text("gateway.host")
        scheme = "https" if self.text("gateway.tls_certificate") else "http"
        if host in {"0.0.0.0", "::"}:  # noqa: S104  compared with, not bound to
            host = "127.0.0.1"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.integer('gateway.port')}"

    @property
    def journal_dir(self) -> Path:
        return self.data / "journal"

    @property
    def ledger_file(self) -> Path:
        return self.data / "ledger.duckdb"

    @property
    def control_file(self) -> Path:
        return self.data / "control.sqlite"

    @property
    def prices_dir(self) -> Path:
        return self.data / "prices"


def load(
    file: Path | None = None,
    *,
    overrides: Mapping[str, str | int | float | bool] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read the settings: defaults, then the file, then the environment, then `overrides` (the command line).

    `file` defaults to `costbearer.toml` in the working directory, where there is one.

    Raises:
        ConfigInvalid: an unknown setting, a value of the wrong type, a provider without a usable credential or address.
    """
    env = os.environ if environ is None else environ
    if file is None:
        named = env.get(PREFIX + "CONFIG")
        file = Path(named) if named else (Path(CONFIG_FILE) if Path(CONFIG_FILE).exists() else None)
    document = _read(file) if file is not None else {}
    where = str(file) if file is not None else ""
    providers_table = document.pop("providers", {})
    if not isinstance(providers_table, dict):
        raise ConfigInvalid(f"{where}: providers must be tables such as [providers.openai]")
    routes_table = document.pop("routes", [])
    if not isinstance(routes_table, list):
        raise ConfigInvalid(f"{where}: routes must be a list of tables, each under its own [[routes]]")
    given = _flatten(document)
    known = {row.name for row in SETTINGS}
    for name in given:
        if name not in known:
            raise ConfigInvalid(f"{where}: unknown setting {name!r}; `costbearer config show` lists them all")

    values: dict[str, str | int | float | bool] = {}
    origin: dict[str, str] = {}
    for row in SETTINGS:
        variable = PREFIX + row.name.upper().replace(".", "_")
        if overrides and row.name in overrides:
            raw, source = overrides[row.name], "command line"
        elif variable in env:
            raw, source = env[variable], f"environment {variable}"
        elif row.name in given:
            raw, source = given[row.name], where
        else:
            raw, source = row.default, "default"
        values[row.name] = _checked(row, raw, source)
        origin[row.name] = source

    base = file.parent if file is not None and origin["data"] == where else Path()
    data = (base / str(values["data"])).absolute()
    rows = known_providers() if providers_table else {}
    beside = file.parent if file is not None else Path()
    ca_file = str(values["upstream.ca_file"])
    outward = Outward(
        environ=env,
        beside=beside,
        proxy=str(values["upstream.proxy"]).strip(),
        proxy_origin=f"upstream.proxy ({origin['upstream.proxy']})",
        ca_file=(beside if origin["upstream.ca_file"] == where else Path()) / ca_file if ca_file else None,
    )
    # What may be shown keeps no password; it is read before a provider needs it, so that a faulty one is told at once.
    values["upstream.proxy"] = outward.shown_proxy()
    providers = {name: _provider(name, table, rows, env, file, outward) for name, table in providers_table.items()}
    routes = tuple(_route(index, table, providers, where) for index, table in enumerate(routes_table))
    return Config(data=data, values=values, origin=origin, providers=providers, routes=routes)


def client_environment(environ: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """The server another machine's commands talk to: (COSTBEARER_URL, COSTBEARER_TOKEN)."""
    env = os.environ if environ is None else environ
    return env.get(PREFIX + "URL"), env.get(PREFIX + "TOKEN")


def _read(file: Path) -> dict[str, Any]:
    try:
        return parsed(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigInvalid(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file}: not TOML: {error}") from None


def _flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        name = prefix + key
        if isinstance(value, dict):
            flat.update(_flatten(value, name + "."))
        else:
            flat[name] = value
    return flat


def _checked(row: Setting, raw: Any, source: str) -> str | int | float | bool:
    wanted = type(row.default)
    value: Any = raw
    try:
        if wanted is bool:
            if not isinstance(raw, bool):
                value = {"true": True, "false": False}[raw.lower()]
        elif wanted in {int, float}:
            if isinstance(raw, bool):
                raise ValueError
            value = wanted(raw)
            if not math.isfinite(value) or (isinstance(raw, float) and value != raw):
                raise ValueError
        elif not isinstance(raw, str) or (row.default and not raw.strip()):
            raise ValueError
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        raise ConfigInvalid(f"{row.name} ({source}): {raw!r} is not {_article(wanted)}") from None
    if row.choices and value not in row.choices:
        raise ConfigInvalid(f"{row.name} ({source}): {raw!r} is not one of {', '.join(row.choices)}")
    if row.minimum is not None and value < row.minimum:
        raise ConfigInvalid(f"{row.name} ({source}): {raw!r} is below {row.minimum:g}")
    if row.maximum is not None and value > row.maximum:
        raise ConfigInvalid(f"{row.name} ({source}): {raw!r} is above {row.maximum:g}")
    result: str | int | float | bool = value
    return result


def _article(kind: type) -> str:
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]


def known_providers() -> dict[str, dict[str, Any]]:
    """The table of providers that came with this version: what each is, by its name."""
    return tomllib.loads(resources.files("costbearer").joinpath("data", "providers.toml").read_text(encoding="utf-8"))


def _provider(
    name: str,
    table: Any,
    rows: Mapping[str, Mapping[str, Any]],
    env: Mapping[str, str],
    file: Path | None,
    outward: Outward,
) -> Provider:
    place = f"{file}: [providers.{name}]"
    if not isinstance(table, dict):
        raise ConfigInvalid(f"{place} is not a table")
    for key in table:
        if key not in _PROVIDER_KEYS:
            raise ConfigInvalid(f"{place}: unknown setting {key!r}; known are {', '.join(sorted(_PROVIDER_KEYS))}")
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", name):
        raise ConfigInvalid(f"{place}: a provider's name is 1 to 40 of a-z, 0-9, - and _, and begins with a letter")
    like = table.get("like", name)
    if "like" in table and like not in rows:
        raise ConfigInvalid(f"{place}: like {like!r} is not one of {', '.join(rows)}")
    row = rows.get(like, {})
    dialect = table.get("dialect", row.get("dialect"))
    if dialect not in DIALECTS:
        raise ConfigInvalid(f"{place}: dialect {dialect!r} is not one of {', '.join(DIALECTS)}")
    base_url = str(table.get("base_url", row.get("base_url", "")))
    if not _is_base_url(base_url):
        raise ConfigInvalid(f"{place}: base_url {base_url!r} must be http(s)://host[:port][/path] and nothing else")
    cost_header = table.get("cost_header", row.get("cost_header"))
    id_headers = table.get("request_id_headers", row.get("request_id_headers", []))
    if not isinstance(id_headers, list):
        raise ConfigInvalid(f"{place}: request_id_headers must be a list of names of headers")
    return Provider(
        name=name,
        dialect=dialect,
        base_url=base_url.rstrip("/"),
        credential=_credential(table, row, env, file, place),
        credential_file=_credential_file(table, file),
        cost_header=None if cost_header is None else _header_name(cost_header, "cost_header", place),
        price_provider=str(table.get("price_provider", row.get("price_provider", name))),
        request_id_headers=tuple(_header_name(value, "request_id_headers", place) for value in id_headers),
        deployments=_deployments(table.get("deployments", {}), place),
        way=outward.way(table, base_url, place),
    )


def _deployments(table: Any, place: str) -> dict[str, Deployment]:
    """`NAME = "model"`, or `NAME = { model = "...", tier = "provisioned", geo = "datazonestandard" }`."""
    if not isinstance(table, dict):
        raise ConfigInvalid(f"{place}: deployments must be a table of names and the models they are")
    found: dict[str, Deployment] = {}
    for name, value in table.items():
        said = {"model": value} if isinstance(value, str) else value
        if (
            not isinstance(said, dict)
            or not said.get("model")
            or set(said) - _DEPLOYMENT_KEYS
            or not all(isinstance(part, str) for part in said.values())
        ):
            raise ConfigInvalid(f"{place}: deployment {name!r} must be a model, or a table with model, tier and geo")
        found[name] = Deployment(**said)
    return found


def _credential(
    table: Mapping[str, Any], row: Mapping[str, Any], env: Mapping[str, str], file: Path | None, place: str
) -> str:
    if "api_key_env" in table and "api_key_file" in table:
        raise ConfigInvalid(f"{place}: name the credential with exactly one of api_key_env and api_key_file")
    # A credential goes to the host it was meant for: the row's is not sent to an address that is not the row's.
    own_address = "base_url" not in row or table.get("base_url", row["base_url"]) == row["base_url"]
    usual = row.get("api_key_env") if own_address or row.get("api_key_optional") else None
    variable = None if "api_key_file" in table else table.get("api_key_env", usual)
    if variable is not None:
        credential = env.get(str(variable), "").strip()
        source = f"environment variable {variable}"
    elif "api_key_file" in table:
        path = _credential_file(table, file)
        assert path is not None
        credential = _file_text(path, place).strip()
        source = f"file {path}"
    else:
        raise ConfigInvalid(f"{place}: name the credential with exactly one of api_key_env and api_key_file")
    named = "api_key_env" in table or "api_key_file" in table
    if not credential and (named or not row.get("api_key_optional")):
        raise ConfigInvalid(f"{place}: {source} is missing or empty; it must hold the provider's API key")
    if not is_key(credential):
        raise ConfigInvalid(f"{place}: {source} holds characters that no API key has")
    return credential


def _credential_file(table: Mapping[str, Any], file: Path | None) -> Path | None:
    """The file that a provider's table names, as seen from the settings' own."""
    named = table.get("api_key_file")
    return None if named is None else (file.parent if file is not None else Path()) / str(named)


def is_key(credential: str) -> bool:
    """Can it be a provider's key, or nothing where a server needs none?"""
    return credential.isascii() and not any(character.isspace() for character in credential)


def _is_base_url(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or " " in text or "?" in text or "#" in text:
        return False
    try:
        parts = urlsplit(text)
        port_is_real = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc and port_is_real


def _header_name(value: Any, setting: str, place: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ConfigInvalid(f"{place}: {setting} {value!r} is not the name of a header")
    return value.lower()


def _file_text(path: Path, place: str) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        raise ConfigInvalid(f"{place}: file {path} cannot be read as text") from None


def _route(index: int, table: Any, providers: Mapping[str, Provider], where: str) -> Route:
    place = f"{where}: [[routes]] number {index + 1}"
    if not isinstance(table, dict) or set(table) - _ROUTE_KEYS:
        raise ConfigInvalid(f"{place}: a route has exactly the settings model and upstreams")
    model, upstreams = table.get("model"), table.get("upstreams")
    if not isinstance(model, str) or not model:
        raise ConfigInvalid(f"{place}: model must be a text such as 'gpt-*'")
    if not isinstance(upstreams, list) or not upstreams or not all(isinstance(item, str) for item in upstreams):
        raise ConfigInvalid(f"{place}: upstreams must be a list of provider names")
    for item in upstreams:
        if item.split("/", 1)[0] not in providers:
            raise ConfigInvalid(
                f"{place}: upstream {item!r} names no provider; known are {', '.join(providers) or 'none'}"
            )
    return Route(model=model, upstreams=tuple(upstreams))

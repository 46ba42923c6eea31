"""Settings: precedence and origin, every way a value can be wrong, providers, routes, and what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from costbearer.config import PREFIX, SETTINGS, Config, client_environment, known_providers, load
from costbearer.errors import ConfigInvalid
from costbearer.prices import PriceBook
from costbearer.stores import archive

PROVIDER = '[providers.openai]\ndialect = "openai"\nbase_url = "https://api.example.com/v1"\napi_key_env = "FAKE_KEY"\n'
ENVIRON = {"FAKE_KEY": "sk-fake-for-tests"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "costbearer.toml"
    file.write_text(text)
    return load(file, environ={**ENVIRON, **environ})


def fault(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, text, **environ)
    assert "sk-fake" not in caught.value.message
    return caught.value.message


# -- where a value comes from


def test_without_anything_every_setting_has_its_default(tmp_path: Path) -> None:
    config = load(environ={})
    assert {row.name: config.values[row.name] for row in SETTINGS} == {row.name: row.default for row in SETTINGS}
    assert set(config.origin.values()) == {"default"}
    assert config.data == tmp_path / "costbearer-data"
    assert (config.providers, config.routes) == ({}, ())


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    text = "[gateway]\nport = 4100\nworkers = 3\nretries = 2\n"
    file = tmp_path / "c.toml"
    file.write_text(text)
    environ = {"COSTBEARER_GATEWAY_PORT": "4200", "COSTBEARER_GATEWAY_WORKERS": "4"}
    config = load(file, overrides={"gateway.port": 4300}, environ=environ)
    assert [config.integer(f"gateway.{name}") for name in ("port", "workers", "retries")] == [4300, 4, 2]
    assert [config.origin[f"gateway.{name}"] for name in ("port", "workers", "retries", "host")] == [
        "command line",
        "environment COSTBEARER_GATEWAY_WORKERS",
        str(file),
        "default",
    ]


def test_the_file_in_the_working_directory_is_found_and_the_environment_can_name_another(tmp_path: Path) -> None:
    (tmp_path / "costbearer.toml").write_text("[gateway]\nport = 4100\n")
    (tmp_path / "other.toml").write_text("[gateway]\nport = 4200\n")
    assert load(environ={}).integer("gateway.port") == 4100
    assert load(environ={"COSTBEARER_CONFIG": "other.toml"}).integer("gateway.port") == 4200


def test_the_data_directory_in_a_file_is_relative_to_the_file_otherwise_to_where_one_stands(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "c.toml"
    file.write_text('data = "books"\n')
    assert load(file, environ={}).data == tmp_path / "etc" / "books"
    assert load(file, environ={"COSTBEARER_DATA": "books"}).data == tmp_path / "books"
    assert load(file, overrides={"data": "books"}, environ={}).data == tmp_path / "books"
    assert load(file, overrides={"data": "/srv/books"}, environ={}).data == Path("/srv/books")


def test_every_setting_can_come_from_the_environment() -> None:
    samples: dict[type, Any] = {str: "127.0.0.9", int: 5000, float: 7.5, bool: True}
    for row in SETTINGS:
        value = row.choices[-1] if row.choices else samples[type(row.default)]
        variable = PREFIX + row.name.upper().replace(".", "_")
        assert load(environ={variable: str(value)}).values[row.name] == value


def test_names_of_settings_and_their_variables_are_unique_and_explained() -> None:
    variables = [row.name.replace(".", "_") for row in SETTINGS]
    assert len(set(variables)) == len(variables)
    assert all(row.meaning for row in SETTINGS)


def test_paths_in_the_data_directory() -> None:
    config = load(overrides={"data": "/d"}, environ={})
    assert [str(path) for path in (config.journal_dir, config.ledger_file, config.control_file, config.prices_dir)] == [
        "/d/journal",
        "/d/ledger.duckdb",
        "/d/control.sqlite",
        "/d/prices",
    ]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4000"),
        ("0.0.0.0", "http://127.0.0.1:4000"),
        ("::", "http://127.0.0.1:4000"),
        ("::1", "http://[::1]:4000"),
        ("gw.example.com", "http://gw.example.com:4000"),
    ],
)
def test_the_address_that_callers_on_this_host_use(host: str, url: str) -> None:
    assert load(overrides={"gateway.host": host}, environ={}).gateway_url == url


def test_a_list_is_written_with_commas() -> None:
    config = load(overrides={"console.hosts": " a.example , ,b.example,"}, environ={})
    assert config.names("console.hosts") == ("a.example", "b.example")
    assert load(environ={}).names("console.hosts") == ()


def test_the_server_for_commands_on_another_machine() -> None:
    assert client_environment({}) == (None, None)
    assert client_environment({"COSTBEARER_URL": "u", "COSTBEARER_TOKEN": "t"}) == ("u", "t")


# -- what can be wrong with a value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway]\nporto = 1\n", "unknown setting 'gateway.porto'"),
        ("gateway = 3\n", "unknown setting 'gateway'"),
        ("[data]\nx = 1\n", "unknown setting 'data.x'"),
        ("[a.b.c]\nd = 1\n", "unknown setting 'a.b.c.d'"),
        ('[gateway]\nport = "many"\n', "'many' is not a whole number"),
        ("[gateway]\nport = 4000.5\n", "4000.5 is not a whole number"),
        ("[gateway]\nport = true\n", "True is not a whole number"),
        ("[gateway]\nport = [4000]\n", "[4000] is not a whole number"),
        ("[gateway]\nport = inf\n", "inf is not a whole number"),
        ("[gateway]\nport = nan\n", "nan is not a whole number"),
        ("[gateway]\nport = 0\n", "0 is below 1"),
        ("[gateway]\nport = 65536\n", "65536 is above 65535"),
        ("[console]\nport = -1\n", "-1 is below 1"),
        ("[gateway]\nbody_timeout_s = nan\n", "nan is not a number"),
        ("[gateway]\nbody_timeout_s = inf\n", "inf is not a number"),
        ("[gateway]\nbody_timeout_s = 2026-01-01\n", "is not a number"),
        ("[gateway]\nhost = 7\n", "7 is not a text"),
        ('[gateway]\nhost = " "\n', "' ' is not a text"),
        ('data = ""\n', "'' is not a text"),
        ('[journal]\nsync = "sometimes"\n', "'sometimes' is not one of group, always"),
        ("[gateway\n", "not TOML"),
        ("providers = 3\n", "providers must be tables such as [providers.openai]"),
        ("routes = 3\n", "routes must be a list of tables"),
        ("[routes]\nmodel = 'x'\n", "routes must be a list of tables"),
        ("providers.openai = 3\n", "[providers.openai] is not a table"),
    ],
)
def test_a_faulty_file_says_what_and_where(tmp_path: Path, text: str, words: str) -> None:
    message = fault(tmp_path, text)
    assert words in message
    assert "costbearer.toml" in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [("GATEWAY_PORT", ""), ("GATEWAY_PORT", "4000x"), ("UPSTREAM_IDLE_TIMEOUT_S", "nan"), ("DATA", ""), ("DATA", " ")],
)
def test_a_faulty_variable_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"environment COSTBEARER_{variable}"):
        load(environ={f"COSTBEARER_{variable}": value})


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file"):
        load(tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path, environ={})
    (tmp_path / "latin.toml").write_bytes(b'data = "\xe9"\n')
    with pytest.raises(ConfigInvalid, match="not TOML"):
        load(tmp_path / "latin.toml", environ={})


# -- providers and routes


def test_a_provider_is_dialect_address_and_credential(tmp_path: Path) -> None:
    config = read(tmp_path, PROVIDER + 'cost_header = "X-Cost"\nprice_provider = "azure"\n')
    provider = config.providers["openai"]
    assert (provider.name, provider.dialect, provider.base_url) == ("openai", "openai", "https://api.example.com/v1")
    assert (provider.credential, provider.cost_header, provider.price_provider) == (
        "sk-fake-for-tests",
        "x-cost",
        "azure",
    )


def test_a_credential_is_in_no_repr(tmp_path: Path) -> None:
    assert "sk-fake" not in repr(read(tmp_path, PROVIDER))


def test_a_credential_file_is_relative_to_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openai.key").write_text("sk-fake-for-tests\n")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    config = read(tmp_path, PROVIDER.replace('api_key_env = "FAKE_KEY"', 'api_key_file = "openai.key"'))
    assert config.providers["openai"].credential == "sk-fake-for-tests"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("openai]", "Open AI]"), "not TOML"),
        (("openai]", '"Open AI"]'), "a provider's name is 1 to 40 of"),
        (('"openai"\nbase', '"smoke"\nbase'), "dialect 'smoke' is not one of"),
        (("base_url", "base_uri"), "unknown setting 'base_uri'"),
        (('"FAKE_KEY"', '"FAKE_KEY"\napi_key_file = "x"'), "exactly one of api_key_env and api_key_file"),
        (('api_key_env = "FAKE_KEY"', ""), "exactly one of api_key_env and api_key_file"),
        (('"FAKE_KEY"', '"NO_SUCH_KEY"'), "environment variable NO_SUCH_KEY is missing or empty"),
        (('api_key_env = "FAKE_KEY"', 'api_key_file = "none.key"'), "none.key is missing or empty"),
        (('"FAKE_KEY"', '"FAKE_KEY"\ncost_header = "a b"'), "cost_header 'a b' is not the name of a header"),
        (('"FAKE_KEY"', '"FAKE_KEY"\ncost_header = 3'), "cost_header 3 is not the name of a header"),
    ],
)
def test_a_faulty_provider_says_what_and_where(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    assert words in fault(tmp_path, PROVIDER.replace(*change))


@pytest.mark.parametrize(
    "url",
    [
        *("", "api.example.com", "ftp://api.example.com", "https://", "https:///v1", "https://user:pw@api.example.com"),
        *("https://:pw@api.example.com", "https://@api.example.com", "https://api.example.com/?x=1", "https://a#f"),
        *("https://api.example.com:99999", "https://api.example.com:0", "https://api.example.com:port", "https://[::1"),
        *("https://api example.com", "https://b\u00fccher.example", "https://api.example.com/\\n", "https://a?"),
    ],
)
def test_an_address_is_a_host_and_a_path_and_nothing_else(tmp_path: Path, url: str) -> None:
    assert "must be http(s)://host[:port][/path]" in fault(
        tmp_path, PROVIDER.replace("https://api.example.com/v1", url)
    )


@pytest.mark.parametrize("key", ["sk fake", "sk-fäke", "sk-fake\tx", "sk-fake\nx"])
def test_a_credential_no_provider_has_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    message = fault(tmp_path, PROVIDER, FAKE_KEY=key)
    assert "holds characters that no API key has" in message
    assert key not in message


def test_a_credential_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "openai.key").write_bytes(b"\xff\xfe")
    text = PROVIDER.replace('api_key_env = "FAKE_KEY"', 'api_key_file = "openai.key"')
    assert "cannot be read as text" in fault(tmp_path, text)


ANTHROPIC = (
    '[providers.anthropic]\ndialect = "anthropic"\nbase_url = "https://a.example.com"\napi_key_env = "FAKE_KEY"\n'
)


def test_routes_keep_their_order(tmp_path: Path) -> None:
    text = PROVIDER + '[[routes]]\nmodel = "gpt-*"\nupstreams = ["openai", "openai/gpt-4.1-mini"]\n'
    text += '[[routes]]\nmodel = "*"\nupstreams = ["openai"]\n'
    config = read(tmp_path, text)
    assert [(route.model, route.upstreams) for route in config.routes] == [
        ("gpt-*", ("openai", "openai/gpt-4.1-mini")),
        ("*", ("openai",)),
    ]


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ('upstreams = ["openai"]', "model must be a text"),
        ('model = ""\nupstreams = ["openai"]', "model must be a text"),
        ('model = "x"', "upstreams must be a list"),
        ('model = "x"\nupstreams = []', "upstreams must be a list"),
        ('model = "x"\nupstreams = "openai"', "upstreams must be a list"),
        ('model = "x"\nupstreams = [1]', "upstreams must be a list"),
        ('model = "x"\nupstreams = ["azure"]', "upstream 'azure' names no provider; known are openai, anthropic"),
        ('model = "x"\nupstreams = ["openai"]\nwhen = 1', "exactly the settings model and upstreams"),
    ],
)
def test_a_faulty_route_says_what_and_which(tmp_path: Path, route: str, words: str) -> None:
    good = '[[routes]]\nmodel = "*"\nupstreams = ["openai"]\n'
    message = fault(tmp_path, PROVIDER + ANTHROPIC + good + "[[routes]]\n" + route + "\n")
    assert words in message
    assert "[[routes]] number 2" in message


# -- providers that are known by name


def test_a_known_provider_needs_no_more_than_its_name_and_its_key(tmp_path: Path) -> None:
    (tmp_path / "costbearer.toml").write_text(
        '[providers.groq]\n[providers.ollama]\n[providers.eu]\nlike = "mistral"\n'
    )
    environ = {"GROQ_API_KEY": "fake-groq", "MISTRAL_API_KEY": "fake-mistral"}
    providers = load(tmp_path / "costbearer.toml", environ=environ).providers
    groq, ollama, eu = providers["groq"], providers["ollama"], providers["eu"]
    assert (groq.dialect, groq.base_url, groq.credential) == ("openai", "https://api.groq.com/openai/v1", "fake-groq")
    assert (ollama.credential, ollama.price_provider) == ("", "ollama")
    assert (eu.name, eu.price_provider, eu.request_id_headers[0]) == ("eu", "mistral", "mistral-correlation-id")


def test_a_known_provider_keeps_its_key_to_its_own_address(tmp_path: Path) -> None:
    (tmp_path / "costbearer.toml").write_text('[providers.groq]\nbase_url = "https://elsewhere.example.com/v1"\n')
    with pytest.raises(ConfigInvalid, match="exactly one of api_key_env and api_key_file"):
        load(tmp_path / "costbearer.toml", environ={"GROQ_API_KEY": "fake-groq"})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[providers.groq]\n", "environment variable GROQ_API_KEY is missing or empty"),
        ('[providers.x]\nlike = "nobody"\n', "like 'nobody' is not one of"),
        ("[providers.litellm]\n", "base_url '' must be"),
        ('[providers.ollama]\nrequest_id_headers = "x"\n', "request_id_headers must be a list"),
    ],
)
def test_a_known_provider_says_what_it_lacks(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "costbearer.toml").write_text(table)
    with pytest.raises(ConfigInvalid, match=words):
        load(tmp_path / "costbearer.toml", environ={})


@pytest.mark.parametrize("name", known_providers())
def test_every_row_of_the_table_of_providers_holds(tmp_path: Path, name: str) -> None:
    row = known_providers()[name]
    extra = "" if "base_url" in row else 'base_url = "https://own.example.com/v1"\n'
    (tmp_path / "costbearer.toml").write_text(f"[providers.{name}]\n{extra}")
    provider = load(tmp_path / "costbearer.toml", environ={row["api_key_env"]: "fake"}).providers[name]
    assert provider.credential == "fake"
    prices = PriceBook.loads(archive.bundled()).providers()
    assert "price_provider" not in row or provider.price_provider in prices

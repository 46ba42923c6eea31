"""The way out, as it is set: proxies of the settings and of the environment, authorities, certificates of our own."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from costbearer.cli import root
from costbearer.config import Config, load
from costbearer.errors import ConfigInvalid
from costbearer.outbound import environment_proxy, is_exempt, proxy_of
from tests.proxies import papers

SECRET = "s3cr3t-of-the-proxy"


def read(directory: Path, lines: str = "", settings: str = "", url: str = "https://api.x.com/v1", **env: str) -> Config:
    file = directory / "costbearer.toml"
    file.write_text(
        f'{settings}\n[providers.one]\ndialect = "openai"\nbase_url = "{url}"\napi_key_env = "KEY"\n{lines}\n'
    )
    return load(file, environ={"KEY": "sk-test", **env})


def proxy_at(
    directory: Path, lines: str = "", settings: str = "", url: str = "https://api.x.com/v1", **env: str
) -> str:
    proxy = read(directory, lines, settings, **env).providers["one"].way.proxy
    return "" if proxy is None else proxy.url


@pytest.mark.parametrize(
    ("text", "url", "pair"),
    [
        ("http://p.example:3128", "http://p.example:3128", None),
        ("p.example:3128", "http://p.example:3128", None),
        ("https://p.example/", "https://p.example:443", None),
        ("http://me:a%40b%3Ac@p.example", "http://p.example:80", "me:a@b:c"),
        ("http://me@[fd00::1]:8080", "http://[fd00::1]:8080", "me:"),
    ],
)
def test_what_a_proxy_is(text: str, url: str, pair: str | None) -> None:
    proxy = proxy_of(text, "here")
    assert proxy.url == url
    said = None if pair is None else "Basic " + base64.b64encode(pair.encode()).decode()
    assert proxy.authorization == said
    assert said is None or said not in repr(proxy)


@pytest.mark.parametrize(
    "tail", ["p:0", "p:99999", "p:x", "", "p/path", "p?q=1", "p#f", "p q", "p\r\nx: y", "pé", "[::1"]
)
def test_what_is_no_proxy_is_named_and_not_shown(tail: str) -> None:
    with pytest.raises(ConfigInvalid, match="here") as caught:
        proxy_of(f"http://me:{SECRET}@{tail}", "here")
    assert SECRET not in str(caught.value)


def test_socks_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigInvalid, match="socks5://"):
        proxy_of(f"socks5://me:{SECRET}@p:1080", "here")


HTTPS, HTTP = "https://api.x.com/v1", "http://api.x.com/v1"


@pytest.mark.parametrize(
    ("url", "environ", "found"),
    [
        (HTTPS, {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        (HTTPS, {"https_proxy": "p:1", "HTTPS_PROXY": "q:1"}, "http://p:1"),
        (HTTPS, {"https_proxy": "", "HTTPS_PROXY": "q:1"}, None),
        (HTTPS, {"HTTP_PROXY": "p:1"}, None),
        (HTTP, {"HTTP_PROXY": "p:1"}, "http://p:1"),
        (HTTP, {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}, None),
        (HTTP, {"http_proxy": "p:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        (HTTPS, {"HTTPS_PROXY": "p:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        (HTTPS, {"HTTPS_PROXY": "p:1", "NO_PROXY": "x.com"}, None),
        ("http://127.0.0.1:9/v1", {"HTTP_PROXY": "p:1"}, None),
        ("http://localhost:9/v1", {"HTTP_PROXY": "p:1"}, None),
        ("http://[::1]:9/v1", {"HTTP_PROXY": "p:1"}, None),
    ],
)
def test_what_the_environment_says(url: str, environ: dict[str, str], found: str | None) -> None:
    proxy = environment_proxy(environ, url)
    assert (proxy and proxy.url) == found


@pytest.mark.parametrize(
    ("listed", "url", "exempt"),
    [
        ("*", HTTPS, True),
        ("x.com", HTTPS, True),
        (".x.com", HTTPS, True),
        ("*.x.com", HTTPS, True),
        ("X.COM", HTTPS, True),
        ("api.x.com:443", HTTPS, True),
        ("api.x.com:80", HTTPS, False),
        ("x.com:80", HTTP, True),
        ("pi.x.com", HTTPS, False),
        ("api.x.com.evil", HTTPS, False),
        ("a, b\tx.com", HTTPS, True),
        ("", HTTPS, False),
        (".", HTTPS, False),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8:443", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.1.2.3", "https://10.1.2.3:8443/", True),
        ("10.1.2.3:443", "https://10.1.2.3:8443/", False),
        ("fd00::/8", "https://[fd00::1]/", True),
        ("[fd00::1]:443", "https://[fd00::1]/", True),
        ("fd00::1", "https://[fd00::1]/", True),
        ("10.0.0.0/99", "https://10.1.2.3/", False),
    ],
)
def test_whom_no_proxy_names(listed: str, url: str, exempt: bool) -> None:
    assert is_exempt({"NO_PROXY": listed}, url) is exempt
    assert is_exempt({"no_proxy": listed, "NO_PROXY": "" if exempt else "*"}, url) is exempt


def test_the_provider_wins_over_the_setting_over_the_environment(tmp_path: Path) -> None:
    setting = '[upstream]\nproxy = "http://setting:1"'
    assert proxy_at(tmp_path, HTTPS_PROXY="env:1") == "http://env:1"
    assert proxy_at(tmp_path, settings=setting, HTTPS_PROXY="env:1") == "http://setting:1"
    assert proxy_at(tmp_path, 'proxy = "own:1"', setting, HTTPS_PROXY="env:1", NO_PROXY="*") == "http://own:1"
    assert proxy_at(tmp_path, settings=setting, NO_PROXY="x.com") == ""
    assert proxy_at(tmp_path, 'proxy = ""', setting, HTTPS_PROXY="env:1") == ""
    assert proxy_at(tmp_path, settings='[upstream]\nproxy = "direct"', HTTPS_PROXY="env:1") == ""
    assert proxy_at(tmp_path, HTTPS_PROXY="socks5://env:1", NO_PROXY="*") == "", "nobody asks for it"
    with pytest.raises(ConfigInvalid, match="environment HTTPS_PROXY"):
        read(tmp_path, HTTPS_PROXY="socks5://env:1")


@pytest.mark.parametrize("where", ["setting", "provider", "environment", "variable"])
def test_a_proxys_password_is_shown_nowhere(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://me:{SECRET}@p.example:3128"
    config = read(
        tmp_path,
        f'proxy = "{url}"' if where == "provider" else "",
        f'[upstream]\nproxy = "{url}"' if where == "setting" else "",
        **({"HTTPS_PROXY": url} if where == "environment" else {}),
        **({"COSTBEARER_UPSTREAM_PROXY": url} if where == "variable" else {}),
    )
    proxy = config.providers["one"].way.proxy
    assert proxy is not None
    assert base64.b64decode((proxy.authorization or "").removeprefix("Basic ")) == f"me:{SECRET}".encode()
    shown = repr(config) + json.dumps(dict(config.values))
    monkeypatch.setenv("KEY", "sk-test")
    if where in {"environment", "variable"}:
        monkeypatch.setenv("HTTPS_PROXY" if where == "environment" else "COSTBEARER_UPSTREAM_PROXY", url)
    for form in ([], ["--json"], ["--csv"]):
        result = CliRunner().invoke(root, ["config", "show", "--config", str(tmp_path / "costbearer.toml"), *form])
        assert result.exit_code == 0, result.output
        shown += result.output
    assert SECRET not in shown
    assert (proxy.authorization or "").removeprefix("Basic ") not in shown


def test_files_are_seen_from_the_settings_and_checked_at_start(tmp_path: Path) -> None:
    made = papers(tmp_path)
    own = f'ca_file = "{made.authority.name}"\nclient_certificate = "{made.certificate.name}"\n'
    way = read(tmp_path, own + f'client_key = "{made.key.name}"').providers["one"].way
    assert (way.ca_file, way.client_certificate, way.client_key) == made
    everybody = f'[upstream]\nca_file = "{made.authority.name}"'
    assert read(tmp_path, "", everybody).providers["one"].way.ca_file == made.authority
    assert read(tmp_path, 'ca_file = ""', everybody).providers["one"].way.ca_file is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('ca_file = "gone.pem"', "ca_file .*gone.pem cannot be used"),
        ('ca_file = "costbearer.toml"', "ca_file .*cannot be used"),
        ('ca_file = "ca-key.pem"', "ca_file"),
        ("ca_file = 7", "ca_file must be a text"),
        ('client_key = "ca-key.pem"', "client_key without client_certificate"),
        ('client_certificate = "gone.pem"', "client_certificate .*gone.pem"),
        ('client_certificate = "ca-certificate.pem"', "client_certificate .*cannot be used"),
        ('client_certificate = "ca-certificate.pem"\nclient_key = "other-key.pem"', "cannot be used"),
        ("proxy = 7", "proxy must be a text"),
        ('proxy = "ftp://p"', "ftp://"),
    ],
)
def test_a_file_or_proxy_that_cannot_be_used_says_whose_it_is(lines: str, words: str, tmp_path: Path) -> None:
    papers(tmp_path)
    papers(tmp_path, "other")
    with pytest.raises(ConfigInvalid, match=rf"\[providers.one\].*{words}"):
        read(tmp_path, lines)


def test_a_certificate_for_a_provider_without_tls_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="not https"):
        read(tmp_path, 'client_certificate = "x.pem"', url=HTTP)

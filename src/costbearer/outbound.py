"""The way out to a provider: through which proxy, trusting whom, and with which certificate of our own.

What the environment says of proxies is handed in by `config`, which alone reads it. A proxy's password is in no repr,
no message and no listing: `Proxy.url` is what may be shown.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from costbearer.errors import ConfigInvalid

PORTS = {"http": 80, "https": 443}
DIRECT = "direct"
"""Instead of a proxy's URL: none, whatever the environment says."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, and what it is told to let us pass: the value of Proxy-Authorization, if there is one."""

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Without user and password."""
        return f"{self.scheme}://{authority(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Way:
    """How the connections to one provider are made. `ca_file` stands in the place of the system's authorities."""

    proxy: Proxy | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def tls(self) -> ssl.SSLContext:
        """What the provider must prove, and what we prove to it.

        Raises:
            ConfigInvalid: a file cannot be used.
        """
        context = self.proxy_tls()
        if self.client_certificate is not None:
            try:
                # An empty passphrase: a key that needs one fails, instead of waiting for somebody at a terminal.
                context.load_cert_chain(self.client_certificate, self.client_key, password="")
            except (ssl.SSLError, OSError) as error:
                raise ConfigInvalid(f"client_certificate {self.client_certificate} cannot be used: {error}") from None
        return context

    def proxy_tls(self) -> ssl.SSLContext:
        """What a proxy that is reached by TLS must prove: it is never shown our certificate.

        Raises:
            ConfigInvalid: the file of the authorities cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigInvalid(f"ca_file {self.ca_file} cannot be used: {error}") from None
        if self.ca_file is not None and not context.cert_store_stats()["x509"]:
            raise ConfigInvalid(f"ca_file {self.ca_file} holds no certificate")
        return context


def authority(host: str, port: int) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def proxy_of(text: str, source: str) -> Proxy:
    """Read `http(s)://[user:password@]host[:port]`; without a scheme it is http, as curl has it.

    Raises:
        ConfigInvalid: it is something else; `source` is named, the text is not shown.
    """
    wrong = ConfigInvalid(f"{source}: a proxy is http(s)://[user:password@]host[:port] and nothing else")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise wrong
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in PORTS:
        raise ConfigInvalid(f"{source}: proxies of the kind {parts.scheme}:// are not served; http:// and https:// are")
    if not parts.hostname or port == 0 or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise wrong
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return Proxy(parts.scheme, parts.hostname, port or PORTS[parts.scheme], authorization)


def environment_proxy(environ: Mapping[str, str], base_url: str) -> Proxy | None:
    """The proxy that the environment names for this address, by the rules that curl and its kin share.

    The lower-case variable wins, an empty one means none. Where REQUEST_METHOD is set, a CGI server made HTTP_PROXY
    from a stranger's `Proxy` header, so that one is not believed. This host itself is never asked for by a proxy.

    Raises:
        ConfigInvalid: the variable that holds here names no proxy.
    """
    parts = urlsplit(base_url)
    if _is_loopback(parts.hostname or ""):
        return None
    lower = f"{parts.scheme}_proxy"
    name = lower if lower in environ else lower.upper()
    text = environ.get(name, "").strip()
    if not text or (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ) or is_exempt(environ, base_url):
        return None
    return proxy_of(text, f"environment {name}")


def is_exempt(environ: Mapping[str, str], base_url: str) -> bool:
    """Does NO_PROXY name this address? It lists names (and all below them), addresses, networks, `*`, each with or
    without a port. Names are not resolved for it."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    port = parts.port or PORTS[parts.scheme]
    listed = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    return any(_names(entry.lower(), host, port) for entry in re.split(r"[,\s]+", listed) if entry)


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    network = _network(entry.strip("[]"))
    if network is not None:
        return address is not None and address in network
    found = re.fullmatch(r"\[?(.+?)\]?:([0-9]{1,5})", entry)
    if found is not None:
        return int(found[2]) == port and _names(found[1], host, port)
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host.rstrip(".") == name or host.rstrip(".").endswith(f".{name}"))


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Outward:
    """What holds for the way to every provider, where its own table says nothing else."""

    environ: Mapping[str, str] = field(repr=False)
    beside: Path
    """Where the settings' own file stands: the files that a provider's table names are seen from there."""
    proxy: str = field(repr=False)
    proxy_origin: str
    ca_file: Path | None

    def shown_proxy(self) -> str:
        """The setting without user and password.

        Raises:
            ConfigInvalid: it names no proxy.
        """
        if self.proxy in {"", DIRECT}:
            return self.proxy
        proxy = proxy_of(self.proxy, self.proxy_origin)
        return self.proxy if proxy.authorization is None else proxy.url

    def way(self, table: Mapping[str, Any], base_url: str, place: str) -> Way:
        """Raises:
        ConfigInvalid: what is named cannot be used.
        """
        for name in ("proxy", "ca_file", "client_certificate", "client_key"):
            if not isinstance(table.get(name, ""), str):
                raise ConfigInvalid(f"{place}: {name} must be a text")
        own = {name: self._file(str(table.get(name, ""))) for name in ("client_certificate", "client_key")}
        if own["client_certificate"] is None and own["client_key"] is not None:
            raise ConfigInvalid(f"{place}: client_key without client_certificate")
        if own["client_certificate"] is not None and not base_url.startswith("https://"):
            raise ConfigInvalid(f"{place}: client_certificate is of no use: base_url is not https")
        ca_file = self._file(table["ca_file"]) if "ca_file" in table else self.ca_file
        way = Way(self._proxy(table, base_url, place), ca_file, **own)
        if ca_file is not None or own["client_certificate"] is not None:
            try:
                way.tls()
            except ConfigInvalid as error:
                raise ConfigInvalid(f"{place}: {error.message}") from None
        return way

    def _proxy(self, table: Mapping[str, Any], base_url: str, place: str) -> Proxy | None:
        if "proxy" in table:
            text = table["proxy"].strip()
            return None if text in {"", DIRECT} else proxy_of(text, f"{place}: proxy")
        if not self.proxy:
            return environment_proxy(self.environ, base_url)
        if self.proxy == DIRECT or is_exempt(self.environ, base_url):
            return None
        return proxy_of(self.proxy, self.proxy_origin)

    def _file(self, named: str) -> Path | None:
        return self.beside / named if named else None

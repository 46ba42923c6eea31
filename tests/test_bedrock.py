"""The Bedrock family: credentials, signatures, errors, headers."""

from __future__ import annotations

import builtins
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer

from costbearer.dialects.base import Signing
from costbearer.dialects.bedrock import Bedrock, Keys, keys_of, region_of, sign
from costbearer.errors import BodyInvalid, KeyInvalid, UpstreamFailed
from costbearer.simulator.sigv4 import ACCESS_KEY, is_signed

SECRET = "fake/secret+key"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATH = "/model/us.amazon.nova-lite-v1%3A0/converse"
URL = f"https://bedrock-runtime.eu-west-1.amazonaws.com{PATH}"


def signing(**changes: Any) -> Signing:
    headers = (("x-amzn-bedrock-request-metadata", '{"team":"a b"}'), ("content-type", "application/json"))
    return Signing("POST", URL, headers, b'{"messages":[]}', AT)._replace(**changes)


def sent(made: Signing, credential: str) -> dict[str, str]:
    """The headers as they arrive."""
    host = made.url.split("/")[2]
    return {"host": host, **dict(made.headers), **dict(Bedrock().credential_headers(credential, made))}


@pytest.mark.parametrize(
    ("credential", "keys"),
    [
        ("AKIAEXAMPLE000000000:abc/def+g=", Keys("AKIAEXAMPLE000000000", "abc/def+g=", None)),
        ("ASIAEXAMPLE000000000:abc:tok/en==", Keys("ASIAEXAMPLE000000000", "abc", "tok/en==")),
        ("bedrock-api-key-fake", None),
        ("ABSKfakefakefakefakefakefake", None),
        ("short:secret", None),
        ("AKIAEXAMPLE000000000:", None),
    ],
)
def test_credentials(credential: str, keys: Keys | None) -> None:
    assert keys_of(credential) == keys
    if keys is None:
        assert Bedrock().credential_headers(credential) == (("authorization", f"Bearer {credential}"),)


def test_a_server_that_needs_no_credential_gets_none() -> None:
    assert Bedrock().credential_headers("") == ()


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://bedrock-runtime.us-west-2.amazonaws.com", "us-west-2"),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("https://bedrock-runtime.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://bedrock-runtime.eu-central-1.api.aws", "eu-central-1"),
        ("https://vpce-0a1b-2c3d.bedrock-runtime.ap-south-1.vpce.amazonaws.com", "ap-south-1"),
        ("http://127.0.0.1:4000", "us-east-1"),
    ],
)
def test_the_region_is_the_hosts(url: str, region: str) -> None:
    assert region_of(f"{url}/model/x/converse") == region


@pytest.mark.parametrize("token", [None, "tok/en=="])
def test_a_signature_holds_for_what_is_sent(token: str | None) -> None:
    credential = f"{ACCESS_KEY}:{SECRET}" + (f":{token}" if token else "")
    made = signing()
    headers = sent(made, credential)
    assert headers["x-amz-date"] == "20260102T030405Z"
    assert headers.get("x-amz-security-token") == token
    assert "/eu-west-1/bedrock/" in headers["authorization"]
    assert is_signed("POST", PATH, headers, made.body, SECRET)


@pytest.mark.parametrize(
    ("method", "target", "changed", "body", "secret"),
    [
        ("GET", PATH, {}, b'{"messages":[]}', SECRET),
        ("POST", PATH + "-stream", {}, b'{"messages":[]}', SECRET),
        ("POST", PATH + "?a=b", {}, b'{"messages":[]}', SECRET),
        ("POST", PATH, {}, b'{"messages":[] }', SECRET),
        ("POST", PATH, {}, b'{"messages":[]}', "another"),
        ("POST", PATH, {"host": "elsewhere"}, b'{"messages":[]}', SECRET),
        ("POST", PATH, {"x-amz-date": "20260102T030406Z"}, b'{"messages":[]}', SECRET),
        ("POST", PATH, {"content-type": "text/plain"}, b'{"messages":[]}', SECRET),
        ("POST", PATH, {"x-amzn-bedrock-request-metadata": "{}"}, b'{"messages":[]}', SECRET),
        ("POST", PATH, {"authorization": "Bearer x"}, b'{"messages":[]}', SECRET),
    ],
)
def test_a_signature_holds_for_nothing_else(
    method: str, target: str, changed: dict[str, str], body: bytes, secret: str
) -> None:
    headers = sent(signing(), f"{ACCESS_KEY}:{SECRET}")
    assert not is_signed(method, target, headers | changed, body, secret)


def test_signing_is_pure() -> None:
    keys = Keys("AKIAEXAMPLE000000000", SECRET, None)
    assert sign(keys, signing()) == sign(keys, signing())
    assert sign(keys, signing()) != sign(keys, signing(at=AT.replace(second=6)))


def test_without_botocore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("botocore"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UpstreamFailed, match=r"costbearer\[bedrock\]") as caught:
        Bedrock().credential_headers(f"{ACCESS_KEY}:{SECRET}", signing())
    assert SECRET not in caught.value.message


def test_keys_without_a_request_sign_nothing() -> None:
    with pytest.raises(UpstreamFailed, match="signature"):
        Bedrock().credential_headers(f"{ACCESS_KEY}:{SECRET}")


def test_errors_have_awss_shape_and_our_code() -> None:
    body = json.loads(Bedrock().error_body(KeyInvalid("no such key"), "req_1"))
    assert body == {"message": "no such key", "code": "key_invalid", "request_id": "req_1"}


def test_errors_in_a_stream_are_frames_that_botocore_reads() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(Bedrock().error_event(BodyInvalid("zoë broke it"), "req_1"))
    (event,) = list(buffer)
    assert event.headers[":message-type"] == "error"
    assert (event.headers[":error-code"], event.headers[":error-message"]) == ("body_invalid", "zoë broke it")
    assert event.to_response_dict()["status_code"] == 400


def test_callers_headers_that_name_them_stay_behind() -> None:
    dialect = Bedrock()
    assert dialect.provider_request_id({"x-amzn-requestid": "r-1"}) == "r-1"
    assert dialect.provider_request_id({}) is None
    for name in ("authorization", "x-amz-date", "x-amz-security-token", "x-amzn-bedrock-request-metadata", "cookie"):
        assert name not in dialect.forwarded_headers
    assert "x-amzn-bedrock-service-tier" in dialect.forwarded_headers
    assert "x-amzn-bedrock-output-token-count" in dialect.relayed_headers

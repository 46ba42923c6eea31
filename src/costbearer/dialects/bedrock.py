"""The Bedrock family: credentials, signatures, headers and errors of AWS's runtime API.

Base URLs of its providers end before `/model` (`https://bedrock-runtime.us-east-1.amazonaws.com`). The credential of a
provider is a Bedrock API key, sent as a bearer, or `ACCESS_KEY:SECRET` or `ACCESS_KEY:SECRET:SESSION_TOKEN`, with which
every request is signed (Signature Version 4). Signing needs the extra `costbearer[bedrock]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from costbearer.dialects import eventstream, reply
from costbearer.dialects.base import Family, Operation, Signing
from costbearer.dialects.bedrock_converse import Converse, CountTokens
from costbearer.dialects.bedrock_invoke import Invoke
from costbearer.errors import CallRefused, UpstreamFailed

SERVICE = "bedrock"
"""The name under which requests are signed; it is not the host's (`bedrock-runtime`)."""

_KEYS = re.compile(r"([A-Z0-9]{16,128}):([^:]+)(?::(.+))?")
_HOST = re.compile(
    r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|api\.aws|vpce\.amazonaws\.com)"
)
_VPC_HOST = re.compile(r"vpce-[^.]+\.bedrock-runtime\.([a-z0-9-]+)\.vpce\.amazonaws\.com")
_REGION_ELSEWHERE = "us-east-1"
"""What a host that names no region is signed for: a proxy or a simulator, which does not look at it."""


class Keys(NamedTuple):
    """Credentials of an AWS identity."""

    access: str
    secret: str
    token: str | None


class Bedrock(Family):
    """The dialect `bedrock`."""

    signs = True

    def __init__(self) -> None:
        self.name = "bedrock"
        self.operations: Mapping[str, Operation] = {
            "converse": Converse(),
            "converse_stream": Converse(stream=True),
            "invoke": Invoke(),
            "invoke_stream": Invoke(stream=True),
            "count_tokens": CountTokens(),
        }
        self.forwarded_headers = FORWARDED_HEADERS
        self.relayed_headers = RELAYED_HEADERS

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        """A bearer, or the signature of this request; nothing for a server of one's own that needs none.

        Raises:
            UpstreamFailed: the credential signs and there is no request to sign, or botocore is not installed.
        """
        keys = keys_of(credential)
        if keys is None:
            return (("authorization", f"Bearer {credential}"),) if credential else ()
        if signing is None:
            raise UpstreamFailed("a Bedrock request cannot be sent without its signature")
        return sign(keys, signing)

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        return reply.name(headers.get("x-amzn-requestid"))

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """AWS's `message`, and our machine code as `code`: SDKs take it for the error's name where no header
        `x-amzn-errortype` has one (boto3: `ClientError.response["Error"]["Code"]`)."""
        return msgspec.json.encode({"message": refused.message, "code": refused.code, "request_id": request_id})

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        """An unmodelled error of an event stream, whose code and message are headers (boto3: `EventStreamError`)."""
        headers = {
            ":message-type": "error",
            ":error-code": refused.code,
            ":error-message": refused.message,
            ":content-type": "application/json",
        }
        return eventstream.encode(headers, self.error_body(refused, request_id))


def keys_of(credential: str) -> Keys | None:
    """The identity that a credential names; None where it is an API key."""
    match = _KEYS.fullmatch(credential)
    return None if match is None else Keys(match[1], match[2], match[3])


def region_of(url: str) -> str:
    """The region that a base URL's host names."""
    host = urlsplit(url).hostname or ""
    match = _HOST.fullmatch(host) or _VPC_HOST.fullmatch(host)
    return _REGION_ELSEWHERE if match is None else match[1]


def sign(keys: Keys, signing: Signing) -> tuple[tuple[str, str], ...]:
    """The headers that sign a request (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html).

    All headers that are given are signed, and the host. The same request at the same time has the same signature.

    Raises:
        UpstreamFailed: botocore is not installed.
    """
    try:
        # Only who signs needs it: its import takes longer than the rest of the gateway's start.
        from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
    except ImportError:
        raise UpstreamFailed(
            "requests to Bedrock with AWS keys are signed by botocore, which is not installed; "
            "install costbearer[bedrock], or use a Bedrock API key"
        ) from None
    request: Any = AWSRequest(signing.method, signing.url, headers=dict(signing.headers), data=signing.body)
    stamp = signing.at.strftime(SIGV4_TIMESTAMP)
    made = [("x-amz-date", stamp)]
    if keys.token is not None:
        made.append(("x-amz-security-token", keys.token))
    for name, value in made:
        request.headers[name] = value
    request.context["timestamp"] = stamp
    credentials = Credentials(keys.access, keys.secret, keys.token)
    auth: Any = SigV4Auth(credentials, SERVICE, region_of(signing.url))
    signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    signed = auth.signed_headers(auth.headers_to_sign(request))
    made.append(
        (
            "authorization",
            f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={signed}, Signature={signature}",
        )
    )
    return tuple(made)


def _token_headers() -> Iterator[str]:
    for what in ("input", "output", "cache-read-input", "cache-write-input"):
        yield f"x-amzn-bedrock-{what}-token-count"


FORWARDED_HEADERS = frozenset(
    {
        "accept",
        "traceparent",
        "user-agent",
        "x-amzn-bedrock-accept",
        "x-amzn-bedrock-guardrailidentifier",
        "x-amzn-bedrock-guardrailversion",
        "x-amzn-bedrock-performanceconfig-latency",
        "x-amzn-bedrock-service-tier",
        "x-amzn-bedrock-trace",
    }
)
"""Not among them: the caller's `x-amzn-bedrock-request-metadata`, whose place the verified labels take, and whatever
signed the caller's request."""

RELAYED_HEADERS = frozenset(
    {
        "content-type",
        "retry-after",
        "x-amzn-bedrock-content-type",
        "x-amzn-bedrock-invocation-latency",
        "x-amzn-bedrock-performanceconfig-latency",
        "x-amzn-bedrock-service-tier",
        "x-amzn-errortype",
        "x-amzn-requestid",
        *_token_headers(),
    }
)
"""Not among them: what AWS's own proxies add."""

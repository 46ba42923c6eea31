"""Checks AWS signatures (Signature Version 4) from the request that came, with nothing of its signer's code.

The steps are those of https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import quote

ACCESS_KEY = "AKIASIMULATED0000000"
"""The only access key there is; its secret is the simulator's credential."""

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})"
)
_REQUIRED = frozenset({"host", "x-amz-date"})


def is_signed(method: str, target: str, headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Is the request signed with that secret, for the service that it is sent to, as it is?

    `target` is the request line's, escaped as it was sent.
    """
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if match is None:
        return False
    access, day, region, service, names, signature = match.groups()
    signed = names.split(";")
    stamp = headers.get("x-amz-date", "")
    if access != ACCESS_KEY or service != "bedrock" or not set(signed) >= _REQUIRED or not stamp.startswith(day):
        return False
    path, _, query = target.partition("?")
    lines = [method, quote(path, safe="/~"), query]
    lines += [f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed]
    lines += ["", names, sha256(body).hexdigest()]
    scope = f"{day}/{region}/{service}/aws4_request"
    canonical = sha256("\n".join(lines).encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}"
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request", text):
        key = hmac.digest(key, part.encode(), sha256)
    return hmac.compare_digest(key.hex(), signature)

"""Names that hide which model they are: Azure's deployments, Bedrock's application inference profiles. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from costbearer.dialects.base import Reading

SPILLED_OVER = "spilled_over"
"""The note of a call that bought capacity had no room for, so that it was served and billed by the token."""


class Deployment(NamedTuple):
    """What the configuration says of one name at a provider.

    `model` is the model it is priced as, whatever a reply calls it. `tier` is `provisioned` where its capacity is paid
    by the hour, `geo` the place or SKU that its price depends on (`datazonestandard`); None leaves either to the reply.
    """

    model: str
    tier: str | None = None
    geo: str | None = None


def as_deployed(reading: Reading, deployment: Deployment) -> Reading:
    """The reading of a call to that deployment, priced as the configuration says.

    A call that spilled over was not served by the deployment's own capacity: it keeps the reply's tier. Where several
    models worked on the call, only those that the reply calls the serving one are the deployment's.
    """
    work = tuple(
        msgspec.structs.replace(part, model=deployment.model)
        if len(reading.work) == 1 or part.model == reading.response_model
        else part
        for part in reading.work
    )
    tier = reading.tier if deployment.tier is None or SPILLED_OVER in reading.notes else deployment.tier
    return msgspec.structs.replace(reading, work=work, tier=tier, geo=deployment.geo or reading.geo)

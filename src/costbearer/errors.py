"""The exception tree: every error a user can meet, with its machine code and HTTP status.

::

    CostbearerError
    |-- CallRefused                 the gateway answers this to a caller, in the caller's dialect
    |   |-- KeyMissing              key_missing           401
    |   |-- KeyInvalid              key_invalid           401
    |   |-- KeyExpired              key_expired           401
    |   |-- KeyRevoked              key_revoked           401
    |   |-- LabelMissing            field_missing         400
    |   |-- TagMalformed            tag_malformed         400
    |   |-- RequestMalformed        request_malformed     400
    |   |-- MethodRefused           method_refused        405
    |   |-- RequestTimeout          request_timeout       408
    |   |-- TargetTooLong           target_too_long       414
    |   |-- HeadersTooLarge         headers_too_large     431
    |   |-- HeaderInvalid           header_invalid        400
    |   |-- BodyInvalid             body_invalid          400
    |   |-- BodyTooLarge            body_too_large        413
    |   |-- ModelUnknown            model_unknown         404
    |   |-- PriceUnknown            price_unknown         400
    |   |-- EndpointNotMetered      endpoint_not_metered  404
    |   |-- RateLimited             rate_limited          429
    |   |-- UpstreamFailed          upstream_failed       502
    |   |-- UpstreamBusy            upstream_busy         503
    |   |-- UpstreamTimeout         upstream_timeout      504
    |   |-- GatewayBusy             gateway_busy          503
    |   |-- NotRecording            not_recording         503
    |   `-- ShuttingDown            shutting_down         503
    |-- FieldInvalid                field_missing         422   a form or command with faulty fields, all named at once
    |   `-- QueryInvalid            query_invalid         400   a question to a report that cannot be asked
    |-- NotFound                    not_found             404   no such key, entry, ...
    |-- Conflict                    conflict              409   the thing is not in a state that allows this
    |   |-- KeyReused               idempotency_key_reused   409
    |   `-- InProgress              idempotency_in_progress  409
    |-- PostingBusy                 posting_busy          503   somebody else posts entries; to be sent again
    |-- Unauthorized                unauthorized          401   the administration API without a valid token
    |-- UsageInvalid                usage_invalid         422   counts that contradict their stated containment
    |-- AmountInvalid               amount_invalid        422   text that is not an exact amount of money
    |-- PricesInvalid               prices_invalid        422   a contract or price archive that cannot be taken
    |-- InputInvalid                input_invalid         422   a usage log, map or invoice that cannot be taken
    |-- ConfigInvalid               config_invalid        -     a setting that cannot be used
    |-- DataDirectoryBusy           data_directory_busy   -     another process owns this data directory
    |-- JournalFailed               journal_failed        -     the journal cannot be written; the writer must stop
    |   `-- JournalFull             journal_full          -     the disk has no space for this frame now
    |-- StoreFailed                 store_failed          -     a store cannot be opened or does not hold
    `-- RemoteFailed                remote_failed         -     a running server refused or could not be reached

A message says what is wrong, where, and how to mend it. It never holds a key, a credential or an upstream's own text.
"""

from __future__ import annotations


class CostbearerError(Exception):
    """Base of every error that is meant for a person. `code` is stable; the message is not."""

    code: str = "internal"
    http_status: int = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CallRefused(CostbearerError):
    """A call that the gateway answers itself."""

    http_status = 400


class KeyMissing(CallRefused):
    code = "key_missing"
    http_status = 401


class KeyInvalid(CallRefused):
    code = "key_invalid"
    http_status = 401


class KeyExpired(CallRefused):
    code = "key_expired"
    http_status = 401


class KeyRevoked(CallRefused):
    code = "key_revoked"
    http_status = 401


class LabelMissing(CallRefused):
    """The key requires the caller to state fields that this call does not state."""

    code = "field_missing"


class TagMalformed(CallRefused):
    code = "tag_malformed"


class RequestMalformed(CallRefused):
    """Bytes that are no HTTP/1.1 request, or one that could be read in two ways."""

    code = "request_malformed"


class MethodRefused(CallRefused):
    code = "method_refused"
    http_status = 405


class RequestTimeout(CallRefused):
    code = "request_timeout"
    http_status = 408


class TargetTooLong(CallRefused):
    code = "target_too_long"
    http_status = 414


class HeadersTooLarge(CallRefused):
    code = "headers_too_large"
    http_status = 431


class HeaderInvalid(CallRefused):
    code = "header_invalid"


class BodyInvalid(CallRefused):
    code = "body_invalid"


class BodyTooLarge(CallRefused):
    code = "body_too_large"
    http_status = 413


class ModelUnknown(CallRefused):
    code = "model_unknown"
    http_status = 404


class PriceUnknown(CallRefused):
    """The key's calls must have a price, and this one has none."""

    code = "price_unknown"


class EndpointNotMetered(CallRefused):
    code = "endpoint_not_metered"
    http_status = 404


class RateLimited(CallRefused):
    code = "rate_limited"
    http_status = 429


class UpstreamFailed(CallRefused):
    code = "upstream_failed"
    http_status = 502


class UpstreamBusy(CallRefused):
    """As many connections to the provider as `upstream.connections_max` allows are in use."""

    code = "upstream_busy"
    http_status = 503


class UpstreamTimeout(CallRefused):
    code = "upstream_timeout"
    http_status = 504


class GatewayBusy(CallRefused):
    """As much as this worker can hold is under way."""

    code = "gateway_busy"
    http_status = 503


class NotRecording(CallRefused):
    code = "not_recording"
    http_status = 503


class ShuttingDown(CallRefused):
    code = "shutting_down"
    http_status = 503


class FieldInvalid(CostbearerError):
    """Every faulty field at once: `fields` maps the field's name to what is wrong with it."""

    code = "field_missing"
    http_status = 422

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {fault}" for name, fault in fields.items()))
        self.fields = fields


class QueryInvalid(FieldInvalid):
    """A report's faulty parameters, all at once: an unknown dimension, an impossible period."""

    code = "query_invalid"
    http_status = 400


class NotFound(CostbearerError):
    code = "not_found"
    http_status = 404


class Conflict(CostbearerError):
    code = "conflict"
    http_status = 409


class KeyReused(Conflict):
    """An Idempotency-Key that came with another request before."""

    code = "idempotency_key_reused"


class InProgress(Conflict):
    """The request that came first with this Idempotency-Key is not done yet."""

    code = "idempotency_in_progress"


class PostingBusy(CostbearerError):
    """Somebody else posts entries, and it is done one after the other. Nothing of what was asked is done."""

    code = "posting_busy"
    http_status = 503


class Unauthorized(CostbearerError):
    code = "unauthorized"
    http_status = 401


class UsageInvalid(CostbearerError):
    """Counts that cannot be; `subject` names the meter or the count at fault."""

    code = "usage_invalid"
    http_status = 422

    def __init__(self, message: str, subject: str = "") -> None:
        super().__init__(message)
        self.subject = subject


class AmountInvalid(CostbearerError):
    code = "amount_invalid"
    http_status = 422


class PricesInvalid(CostbearerError):
    """A contract or a price archive that contradicts itself; the message names the line or row."""

    code = "prices_invalid"
    http_status = 422


class InputInvalid(CostbearerError):
    """A file from elsewhere (a usage log, a map, an invoice) that cannot be taken; the message says where."""

    code = "input_invalid"
    http_status = 422


class ConfigInvalid(CostbearerError):
    code = "config_invalid"


class DataDirectoryBusy(CostbearerError):
    code = "data_directory_busy"


class JournalFailed(CostbearerError):
    code = "journal_failed"


class JournalFull(JournalFailed):
    """A frame that was not written for want of space alone: the same frame can be written later."""

    code = "journal_full"


class StoreFailed(CostbearerError):
    code = "store_failed"


class RemoteFailed(CostbearerError):
    code = "remote_failed"

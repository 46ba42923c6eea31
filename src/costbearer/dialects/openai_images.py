"""OpenAI's images: generations, edits and variations.

Shapes: https://platform.openai.com/docs/api-reference/images. GPT Image models state tokens, of text and of images each
way; the vectors of an SVG are written by another model, stated apart. Models without tokens (DALL-E, and those of most
compatible providers) are priced by the image, its size and its quality: counted from `data`, for what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import form, reply, stored
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Plain, Reading, ReplyReader
from costbearer.dialects.openai_usage import read_cost
from costbearer.dialects.reply import Counts, Notes
from costbearer.usage import Usage, Work

GENERATE = "images.generate"
EDIT = "images.edit"
VARIATION = "images.variation"

PATHS = {GENERATE: "/images/generations", EDIT: "/images/edits", VARIATION: "/images/variations"}

IMAGES_MAX = 100
"""More images (`n`) than any provider makes in one request; OpenAI makes 10."""

_COMPLETED = frozenset({"image_generation.completed", "image_edit.completed"})

_TOKEN_MODELS = ("gpt-image", "chatgpt-image")
"""What the names of models begin with whose replies state tokens."""

_VARIATION_MODEL = "dall-e-2"
"""The only model that makes variations, and their default."""

_SMALL_BYTES = 4096
_USAGE = b'"usage"'
_ERROR = b'"error"'


class _Defaults(NamedTuple):
    size: str
    quality: str


_DEFAULTS = {"dall-e-2": _Defaults("1024x1024", "standard"), "dall-e-3": _Defaults("1024x1024", "standard")}
"""What an image is where the request does not say, by the API's reference."""


class _Images(msgspec.Struct, gc=False):
    """Of a reply or an event, what is read; of the images only how many there are."""

    type: Any = None
    id: Any = None
    model: Any = None
    data: Any = None
    usage: Any = None
    svg_usage: Any = None
    error: Any = None


class _Whole(_Images, gc=False):
    data: list[msgspec.Raw] | None = None


_whole = reply.decoder(_Whole)
_event = reply.decoder(_Images)


class OpenAIImages(Plain):
    """The operations `images.generate`, `images.edit` and `images.variation`; edits and variations come as forms."""

    def __init__(self, operation: str, path: str | None = None) -> None:
        self._operation = operation
        self._path = path or PATHS[operation]

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = form.fields(body, place)
        tags = fields.tags()
        model = _VARIATION_MODEL if self._operation == VARIATION and not fields.states("model") else fields.model()
        return CallRequest(
            operation=self._operation,
            model=model,
            stream=fields.flag("stream") or False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            choices=fields.whole("n", low=1, high=IMAGES_MAX) or 1,
            open_ended=self._operation != GENERATE or fields.states("svg") or fields.states("prompt_rewriter"),
            tier=fields.word("service_tier"),
            variant=_variant(model, fields),
            quantities_max={"generated_image": fields.whole("n", low=1, high=IMAGES_MAX) or 1},
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The request for the provider: tags off, model renamed; else the caller's bytes.

        A variation whose request names no model gets one where it is not the default's.
        """
        return form.outgoing(request, self._path, model)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole, or an error body. Never raises."""
        try:
            found = _whole(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        told = _Told(request)
        told.read(found)
        return told.reading(Notes(), images=len(found.data or ()), ended=True)


class _Told:
    """What a reply has told so far."""

    def __init__(self, request: CallRequest) -> None:
        self._request = request
        self._model: str | None = None
        self._id: str | None = None
        self._usages: list[dict[str, Any]] = []
        self._svg: dict[str, Any] | None = None
        self._error: object = None
        self._malformed = False
        self.completed = 0

    def read(self, found: _Images) -> None:
        """A whole reply, or one event of a stream."""
        self._model = self._model or reply.name(found.model)
        self._id = self._id or reply.name(found.id)
        self._error = self._error or found.error
        self.completed += type(found.type) is str and found.type in _COMPLETED
        if type(found.usage) is dict:
            if found.usage:
                self._usages.append(found.usage)
        elif found.usage is not None:
            self._malformed = True
        if type(found.svg_usage) is dict:
            self._svg = found.svg_usage

    def reading(self, noted: Notes, *, images: int, ended: bool) -> Reading:
        notes = Notes()
        notes.add(*noted.codes())
        model = self._model or self._request.model
        work, sound = self._work(model, images, notes)
        costs = [cost for usage in self._usages if (cost := read_cost(usage, notes)) is not None]
        if self._error and self._request.stream:
            notes.add("error_in_stream")
        return Reading(
            work=work,
            complete=sound and ended and not self._malformed,
            response_model=self._model,
            response_id=self._id,
            variant=self._request.variant if work and work[0].usage.generated_images is not None else None,
            provider_cost_usd=costs[0] if len(costs) == len(self._usages) == 1 else None,
            error_code=stored.error_code(self._error),
            notes=notes.codes(),
        )

    def _work(self, model: str, images: int, notes: Notes) -> tuple[tuple[Work, ...], bool]:
        if self._malformed:
            notes.add("usage_malformed")
        if not self._usages:
            if images and not model.lower().startswith(_TOKEN_MODELS) and not self._malformed:
                return (Work(model=model, usage=Usage(generated_images=images)),), True
            notes.add("usage_absent")
            return (), False
        if len(self._usages) > 1:
            # Every image that is done says what it used: its event counts "the image tokens in the output image".
            notes.add("usage_of_several_images")
        read = [_read_usage(usage, notes) for usage in self._usages]
        sound = all(is_sound for _, is_sound in read)
        work = tuple(Work(model=model, usage=usage) for usage, _ in read if usage != Usage())
        if self._svg is not None:
            written = _svg_work(self._svg, notes)
            sound = sound and written is not None
            work += () if written is None else (written,)
        return work, sound


class StreamReader(reply.EventReader):
    """Reads a stream of images; every event is relayed. It ends with the last image that was asked for."""

    def __init__(self, request: CallRequest) -> None:
        super().__init__()
        self._told = _Told(request)
        self._images = request.choices

    def take(self, data: bytes) -> bool:
        # A picture on its way has megabytes of base64, in which no quotation mark can stand.
        if len(data) > _SMALL_BYTES and _USAGE not in data and _ERROR not in data:
            return True
        self._told.read(_event(data))
        if self._told.completed >= self._images:
            self.ended = True
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return self._told.reading(self.notes, images=self._told.completed, ended=self.ended)


def _variant(model: str, fields: form.Fields) -> str | None:
    """Size and quality of the images asked for, as prices name them: `1024x1024/hd`. None where nobody says."""
    size, quality = fields.word("size"), fields.word("quality")
    name = model.lower()
    if name.startswith(_TOKEN_MODELS):
        return None
    default = next((each for prefix, each in _DEFAULTS.items() if name.startswith(prefix)), None)
    if default is not None:
        size = default.size if size in {None, "auto"} else size
        quality = default.quality if quality in {None, "auto"} else quality
    return bodies.word("/".join(part for part in (size, quality) if part))


def _read_usage(stated: dict[str, Any], notes: Notes) -> tuple[Usage, bool]:
    """Inclusive counts, and whether they can be relied on.

    Output whose parts are not stated is all image, as the API's reference says of the event that completes one.
    """
    counts = Counts(stated)
    given, made, total = counts.take("input_tokens"), counts.take("output_tokens"), counts.take("total_tokens")
    of_input, of_output = counts.part("input_tokens_details"), counts.part("output_tokens_details")
    cached = of_input.take("cached_tokens")
    cached_images = of_input.part("cached_tokens_details").take("image_tokens")
    images = of_output.take("image_tokens")
    if images is None and made is not None:
        text = of_output.take("text_tokens") or 0
        images = max(made - text, 0)
    usage = Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_input_tokens=cached,
        image_input_tokens=of_input.take("image_tokens"),
        cache_read_image_input_tokens=cached_images,
        image_output_tokens=images,
    )
    if counts.faults:
        notes.add("usage_malformed")
    if given is None or made is None:
        notes.add("usage_partial")
        return usage, False
    if total is not None and total != given + made:
        notes.add("total_mismatch")
    return usage, not counts.faults


def _svg_work(stated: dict[str, Any], notes: Notes) -> Work | None:
    """What the model that wrote an SVG used (`svg_usage`), None where it is not said soundly."""
    counts = Counts(stated)
    usage = Usage(
        input_tokens=counts.take("input_tokens"),
        output_tokens=counts.take("output_tokens"),
        reasoning_output_tokens=counts.take("reasoning_tokens"),
    )
    model = reply.name(stated.get("model"))
    if model is None or counts.faults or usage.input_tokens is None or usage.output_tokens is None:
        notes.add("usage_malformed")
        return None
    return Work(model=model, usage=usage, largest_input_tokens=usage.input_tokens)

"""What /openapi.json says: the framework's description, with the errors that this console really answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

ERROR: dict[str, Any] = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "description": "a machine code; it is stable"},
                "message": {"type": "string", "description": "what is wrong, where, and how to mend it"},
                "fields": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "every faulty field, and what is wrong with it",
                },
            },
        }
    },
}
"""The body of every error (`security.error_document`)."""

_REFUSED = {
    "description": "refused; the body says why",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}


def described(app: FastAPI, *layers: Callable[[dict[str, Any]], None]) -> Callable[[], dict[str, Any]]:
    """A function that describes the application, in place of `app.openapi`. Each of the layers adds to the description
    what it does and no route knows of; it may be asked to do so again."""
    plain = app.openapi

    def description() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        # The framework's own errors are answered in our form.
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = ERROR
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["4XX"] = _REFUSED
        for add in layers:
            add(document)
        return document

    return description

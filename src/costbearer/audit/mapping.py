"""A map of columns, as a person writes it: `field: column`, in YAML."""

from __future__ import annotations

from pathlib import Path

from costbearer.errors import InputInvalid
from costbearer.logformats.generic import check_map


def read(file: Path) -> dict[str, str]:
    """Which column is which field.

    Raises:
        InputInvalid: it cannot be read, or names what there is not.
    """
    import yaml

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputInvalid(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise InputInvalid(f"{file}: a map has one line per column, such as `input_tokens: tokens_in`")
    return check_map(document, str(file))

"""Write the parts of the docs that come from tables: docs/SETTINGS.md. `--check` says whether they are current."""

from __future__ import annotations

import sys
from pathlib import Path

from costbearer.config import PREFIX, SETTINGS

TARGET = Path(__file__).parent.parent / "docs" / "SETTINGS.md"

HEAD = """# Settings

Made from the table in `src/costbearer/config.py` by `make docs`. A setting is read from the command line, else from
the environment, else from `costbearer.toml` (or the file named by `--config` or `COSTBEARER_CONFIG`), else its default
holds; `costbearer config show` says which it was.

| setting | environment | default | meaning |
|---|---|---|---|
"""

TAIL = """
## Providers and routes

```toml
[providers.openai]                      # the name is yours
dialect = "openai"                      # openai or anthropic
base_url = "https://api.openai.com/v1"  # with the version for openai, without for anthropic
api_key_env = "OPENAI_API_KEY"          # or api_key_file
# price_provider = "openai"             # whose prices hold, if not the provider of the same name
# cost_header = "x-litellm-response-cost"  # a reply header that states the cost in USD; it wins over ours

[[routes]]                              # first match wins; without routes the price archive names the provider
model = "gpt-*"
upstreams = ["openai"]                  # in order, the next is the fallback; "openai/gpt-4.1-mini" renames the model
```
"""


def rendered() -> str:
    rows = []
    for row in SETTINGS:
        meaning = row.meaning + (f" ({' or '.join(row.choices)})" if row.choices else "")
        rows.append(
            f"| `{row.name}` | `{PREFIX}{row.name.upper().replace('.', '_')}` | `{row.default}` | {meaning} |\n"
        )
    return HEAD + "".join(rows) + TAIL


def main() -> int:
    if "--check" in sys.argv:
        return 0 if TARGET.read_text(encoding="utf-8") == rendered() else 1
    TARGET.write_text(rendered(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

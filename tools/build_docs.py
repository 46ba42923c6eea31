"""Write the docs that come from tables: docs/SETTINGS.md and docs/AUDIT.md. `--check` says whether they are current."""

from __future__ import annotations

import sys
from pathlib import Path

from costbearer.audit.checks import CHECKS
from costbearer.config import PREFIX, SETTINGS
from costbearer.logformats.fields import FIELDS
from costbearer.logformats.generic import NOT_MAPPED
from costbearer.logformats.registry import FORMATS

DOCS = Path(__file__).parent.parent / "docs"

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


AUDIT_HEAD = """# Auditing a usage log

```sh
costbearer audit usage.jsonl
```

says, in dollars, who caused the spend in a log of any gateway or provider, what nobody answers for, what was counted
twice or priced wrongly, and whether the log is fit for chargeback. No server, no configuration, nothing leaves the
machine. Made from the tables of the formats and checks by `make docs`.

## What it reads

Files of JSON Lines, JSON, CSV or Parquet, plain or packed with gzip or zstd, told apart by what is in them and never by
their names; patterns, directories, standard input (`-`); and a table of PostgreSQL where it is:

```sh
costbearer audit "logs/2026-10/*.jsonl.gz"
costbearer audit "postgresql://reader@db/litellm?table=LiteLLM_SpendLogs"
```

Reading PostgreSQL needs the extra `costbearer[postgresql]`. A line that cannot be read is counted, shown with its
number, and stops nothing. The limits (`audit.*`) are in [SETTINGS](SETTINGS.md).

| format | `--format` | seen |
|---|---|---|
"""

AUDIT_GENERIC = """
Any other table is read by the names of its columns, or as a map says (`--map`), one line per field:

```yaml
started_at: when
response_model: engine
input_tokens: tokens_in
cost_usd: price
asserted_team: labels/team    # a path into JSON
```

The fields are {fields}. Counts are inclusive: `input_tokens` contains what was read from and written to a cache,
`output_tokens` contains reasoning.

## Whose it is

What a log's own gateway took from the key is *verified*, what an ownership map says is *inferred*, what the caller said
in tags and metadata is *asserted*; in this order they are believed, and placeholders (`n/a`, `default`) say nothing. A
map (`--ownership`, YAML or CSV) names for a `key`, `identity`, `workspace`, `project`, `agent` or `user` (`*` matches
anything) its `owner`, `team`, `agent` and `workload`, and `from` which day:

```yaml
- {{key: key-shared, team: search, owner: ana}}
- {{key: "legacy-*", team: platform, from: 2026-10-01}}
```

## What it finds

Every call is rated again with the price archive of its day, and with the contract's prices where they are set
(`costbearer prices set`). Where the log's cost is something else, the mistakes that are usually made are made again:
the first that gives the log's cost, to the last digit that the log states, is the explanation. Duplicates are found
by the provider's id of the answer, else by the log's own id, else by content; content alone can only say that the
same thing was logged at the same instant. The same prompt at another time is a repeat, and a retry that failed at no
cost is as it should be.

| code | severity | dollars are | what it means |
|---|---|---|---|
"""

AUDIT_TAIL = """
Dollars of a *difference* are what the log says too much or too little, of *spend* what the records cost, of *unknown*
the most that can be wrong. A finding's parts have ids (`code:subject`) that stay the same from audit to audit.

## Beside the bill

`--invoice` takes what the provider billed: OpenAI's costs page, Anthropic's cost report, AWS's Cost and Usage Report,
or a table with `period` and `amount`. Days, models, classes of tokens and, where both name them, requests are compared;
`reconciliation_gap_pct` is what the log lacks of the bill, in percent of the bill.

## Traces

Ten traces, drawn across workflows (`--traces`, `--seed`), are asked seven questions: whether every call can be reached
from its trace, whether the trace id is the same on each hop, whether every call carries owner_team, workflow_id and
feature, whether the tenant is known without personal data, whether the cost follows from tokens and prices, whether
retries, fallbacks and caching are explained, and whether less than 2 % of the spend is nobody's. Six make a log ready.

## As a gate

```sh
costbearer audit usage.jsonl --fail-on "unattributed>2%" --fail-on high
costbearer audit usage.jsonl --json
costbearer audit usage.jsonl --baseline before.json --markdown
costbearer audit usage.jsonl --html audit.html
```

Exit code 1 says that a condition is met. Above 2 % of unattributed spend a log leaks, above 3 % something is losing its
owner, from 10 % chargeback cannot rest on it.

## Into the ledger

```sh
costbearer import usage.jsonl --ownership owners.yaml
```

posts the same records as entries of kind `import`, rated by the archive, tenants and users hashed. Importing again adds
nothing; what the gateway recorded itself and what lies in closed months is left out.
"""


def audit() -> str:
    formats = "".join(
        f"| {each.title} | `{each.name}` | {each.sampled or 'written after its documentation; no real sample'} |\n"
        for each in FORMATS
    )
    fields = ", ".join(f"`{field.name}`" for field in FIELDS if field.name not in NOT_MAPPED)
    checks = "".join(
        f"| `{each.code}` | {each.severity} | {each.measure} | {each.title}. {each.why} *{each.fix}* |\n"
        for each in CHECKS
    )
    return AUDIT_HEAD + formats + AUDIT_GENERIC.format(fields=fields) + checks + AUDIT_TAIL


def main() -> int:
    made = {DOCS / "SETTINGS.md": rendered(), DOCS / "AUDIT.md": audit()}
    if "--check" in sys.argv:
        return 0 if all(file.read_text(encoding="utf-8") == text for file, text in made.items()) else 1
    for file, text in made.items():
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

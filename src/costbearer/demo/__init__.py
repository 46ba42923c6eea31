"""`costbearer demo`: the whole way through, on one machine, with nothing to configure.

Simulated providers, a gateway, a console, and real SDK traffic of several teams through them: every official package in
every dialect it speaks (`acts`), streamed and not, tools, cached prompts, a retry, refusals, callers who leave, work
that goes on after its call. Then the report, and its comparison with the books the simulated providers kept for
themselves (`comparison`), dialect by dialect.
"""

from costbearer.demo.comparison import Comparison, Row, verdict
from costbearer.demo.scenario import run

__all__ = ["Comparison", "Row", "run", "verdict"]

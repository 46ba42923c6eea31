"""Simulated providers with their own books: the truth of the tests, the demo and the benchmarks.

They speak the OpenAI and the Anthropic dialect on loopback, count tokens, price them from a table of their own,
misbehave on request and write down what they billed. Nothing of the accounting side is imported here, so that agreement
between these books and a ledger means something.

    with running_simulator() as simulator:
        client = openai.OpenAI(base_url=simulator.openai_base_url, api_key=simulator.credential)
        ...
        assert simulator.books().total() == ...
"""

from costbearer.simulator.books import Line, Statement, Total, read_books
from costbearer.simulator.prices import CARDS, Card, Rates
from costbearer.simulator.server import CREDENTIAL, RunningSimulator, Simulator, run, running_simulator

__all__ = [
    "CARDS",
    "CREDENTIAL",
    "Card",
    "Line",
    "Rates",
    "RunningSimulator",
    "Simulator",
    "Statement",
    "Total",
    "read_books",
    "run",
    "running_simulator",
]

"""Every dollar of LLM API spend tied to its owner, team, agent and workload, and proved against the bill."""

__version__ = "0.1.0"

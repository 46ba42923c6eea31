"""The auditor: what a usage log is worth, in dollars. `audit.run.audit` is the way in."""

"""The gateway: authenticate, attribute, resolve, open, attempt, relay, close. `pipeline` reads in that order."""

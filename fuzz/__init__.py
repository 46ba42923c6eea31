"""Fuzzing of every reader of foreign bytes: `python -m fuzz TARGET --seconds N`.

A target (`targets.TARGETS`) is a function of bytes that raises where an invariant does not hold. Seeds and mutations
are our own (`seeds`, `mutate`), so that `make test` replays a few thousand of them everywhere; where atheris is
installed, `engine` lets it look for new ways through the code by what an input reaches.
"""

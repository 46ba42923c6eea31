"""`python -m costbearer`: the same as the `costbearer` command."""

from costbearer.cli import main

if __name__ == "__main__":
    main()

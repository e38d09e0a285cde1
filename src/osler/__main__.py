"""The command `osler`, and `python -m osler`, where the command is not on the path."""

import sys


def run() -> int:
    """The command line; Ctrl-C is one line from the first import on."""
    try:
        from osler.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("osler: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())

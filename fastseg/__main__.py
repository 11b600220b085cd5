"""`python -m fastseg`, and the command `fastseg`, run the command line.

Nothing is imported here before Ctrl-C is waited for.
"""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from fastseg.cli.main import app

        app(prog_name="fastseg")
    except KeyboardInterrupt:  # while the command line is imported
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

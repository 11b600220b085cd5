"""`python -m fastseg.cli` runs the command line."""

from fastseg.cli.main import main

main()

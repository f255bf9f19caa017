"""`python -m smidgen` is the command line."""

from smidgen.cli.main import main

main()

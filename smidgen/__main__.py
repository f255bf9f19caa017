"""`python -m smidgen` is the command line."""

from smidgen.cli.start import main

main()

"""`python -m raydd`: the command line, where no `raydd` is on the path."""

from raydd.cli import main

main()

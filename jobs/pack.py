"""`raydd pack` of this checkout, for `ray job submit --working-dir . -- python jobs/pack.py SOURCE DEST [--size ...]`."""

import sys

from raydd.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "pack")
    main()

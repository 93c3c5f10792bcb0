"""`raydd sweep` of this checkout, for `ray job submit --working-dir . -- python jobs/sweep.py CONFIG [--set ...]`."""

import sys

from raydd.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    main()

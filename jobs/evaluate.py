"""`raydd evaluate` of this checkout, for `ray job submit --working-dir . -- python jobs/evaluate.py SET --test URL`."""

import sys

from raydd.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()

"""`raydd app` of this checkout, for `ray job submit --working-dir . -- python jobs/app.py KIND CONFIG [--set ...]`."""

import sys

from raydd.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "app")
    main()

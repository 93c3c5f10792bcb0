"""`raydd train` of this checkout, for `ray job submit --working-dir . -- python jobs/train.py SET --net NAME`."""

import sys

from raydd.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()

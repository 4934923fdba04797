"""Former name of `training.model.verify`, kept for one release: replicas of the previous one still call it."""

import sys

from training.model.verify import main

if __name__ == "__main__":
    sys.exit(main())

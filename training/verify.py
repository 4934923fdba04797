"""Former name of `training.model.verify`, for one version: replicas of the version before still call it by this one."""

import sys

from training.model.verify import main

if __name__ == "__main__":
    sys.exit(main())

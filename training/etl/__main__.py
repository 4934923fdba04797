"""`python -m training.etl`: see `training/etl/cli.py`."""

import sys

from training.etl.cli import main

if __name__ == "__main__":
    sys.exit(main())

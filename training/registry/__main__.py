"""`python -m training.registry`: see `training/registry/cli.py`."""

import sys

from training.registry.cli import main

if __name__ == "__main__":
    sys.exit(main())

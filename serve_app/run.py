"""`python -m serve_app.run`, which `make run` calls: see `serve_app/launcher/system.py`."""

import sys

from serve_app.launcher.system import main

if __name__ == "__main__":
    sys.exit(main())

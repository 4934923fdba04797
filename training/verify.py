"""Predict a model's golden rows in a process of its own: `python -m training.verify < roas_model.json`.

Exit code 0 when they agree. Its caller has checked signature and hashes; this shows that the model also works.
"""

from __future__ import annotations

import sys

from training.model import ModelRefused, golden_agrees, open_unverified


def main() -> int:
    try:
        model = open_unverified(sys.stdin.buffer.read())
        agrees = golden_agrees(model)
    except (ModelRefused, ValueError, KeyError, TypeError, IndexError) as error:
        print(error.reason if isinstance(error, ModelRefused) else f"cannot be read: {error!r}", file=sys.stderr)
        return 1
    if not agrees:
        print("its golden rows predict something else", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What `ray start` runs before it starts anything (`RAY_START_HOOK`): it waits longer for its node than Ray would."""

from __future__ import annotations

import importlib
import time
from typing import Any

NODE_S, LOOK_S = 120.0, 0.1


def wait_for_the_node(_parameters: object, _head: bool) -> None:
    """Ray asks for its node without a pause for 30 s and then gives up, and no setting says otherwise.

    On a machine whose cores are busy the node's agents alone take that long to import what they need.
    """
    services: Any = importlib.import_module("ray._private.services")

    ask = services.get_node

    def get_node(gcs_address: str, node_id: str) -> Any:
        until = time.monotonic() + NODE_S
        while True:
            try:
                return ask(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
            time.sleep(LOOK_S)

    services.get_node = get_node

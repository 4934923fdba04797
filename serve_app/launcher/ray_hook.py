"""What `ray start` runs before it starts anything (`RAY_START_HOOK`): patience that no setting of Ray's gives.

On a machine whose cores are busy, Ray's agents alone need half a minute to import what they run.
"""

from __future__ import annotations

import importlib
import inspect
import time
from typing import Any

NODE_S, LOOK_S = 120.0, 0.1


def be_patient(_parameters: object, _head: bool) -> None:
    """Change two functions of Ray 2.60's, in the process of `ray start` alone.

    The node's process gives its dashboard agent 15 s to write down at which port it listens, and aborts. The port is
    one of ours: it is written down before. And `ray start` gives the node 30 s, asking without a pause, and goes on
    when the node's process has long ended.
    """
    services: Any = importlib.import_module("ray._private.services")
    raylet: Any = importlib.import_module("ray._raylet")
    start, ask = services.start_raylet, services.get_node
    parameters = inspect.signature(start)
    node: list[Any] = []

    def start_raylet(*arguments: Any, **named: Any) -> Any:
        given = parameters.bind(*arguments, **named).arguments
        port = given["dashboard_agent_listen_port"]
        raylet.persist_port(given["session_dir"], given["node_id"], raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME, port)
        started = start(*arguments, **named)
        node.append(started.process)
        return started

    def get_node(gcs_address: str, node_id: str) -> Any:
        until = time.monotonic() + NODE_S
        while True:
            try:
                return ask(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
            if node and node[0].poll() is not None:
                raise SystemExit(f"Ray's node process (raylet) ended with code {node[0].returncode}")
            time.sleep(LOOK_S)

    services.start_raylet, services.get_node = start_raylet, get_node

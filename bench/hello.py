"""The smallest Ray Serve application, with which `bench startup` compares. `python -m bench.hello PORT`."""

from __future__ import annotations

import logging
import signal
import sys

import ray
from ray import serve


@serve.deployment
class Hello:
    async def __call__(self, _request: object) -> str:
        return "hello"


def main(port: int) -> None:
    """Serve until a signal arrives."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init(namespace="hello", log_to_driver=False, logging_level=logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray has put its own there
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    application = Hello.bind()  # type: ignore[attr-defined]  # what Serve's decorator makes of it
    serve.run(application, name="hello", route_prefix="/", blocking=False)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]))

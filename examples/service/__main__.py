"""Run the service: `python -m service DATABASE PORT [SENSOR_PORT ...]`."""

import argparse
import logging
from functools import partial

import safeaio
from safeaio import Backoff, Service, Supervisor, supervise
from safeaio.websocket.uvicorn import serve

from .api import application
from .feed import Feed
from .poller import Poller
from .store import Store


async def main(database: str, port: int, sensor_ports: list[int]) -> None:
    feed = Feed()
    store = Store(database, feed.tell)
    poller = Poller([("127.0.0.1", sensor) for sensor in sensor_ports], store)
    app = application(store, poller, feed, lambda: sup)
    serve_all = partial(
        serve,
        app,
        feed.hub,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=3,  # no request takes longer than a `put`
    )
    # In the order of their use: the API stops first, the writer last.
    sup: Supervisor = supervise(
        Service(
            store.write,
            name="store",
            max_restarts=60,  # about a minute without the database
            backoff=Backoff(cap=1),
        ),
        Service(poller.poll, 0.2, name="poller", watchdog=2),
        Service(serve_all, name="api"),
        name="service",
    )
    await sup


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="service", description=__doc__)
    parser.add_argument("database", help="a file of SQLite, made if there is none")
    parser.add_argument("port", type=int, help="where to serve HTTP")
    parser.add_argument("sensors", type=int, nargs="*", help="ports to read from")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    safeaio.run(main, args.database, args.port, args.sensors)

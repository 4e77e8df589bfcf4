"""Run the service: `python -m service DATABASE PORT [SENSOR_PORT ...]`."""

import argparse
import logging
from functools import partial

import safeaio
from safeaio import Backoff, Service, Supervisor, supervise

from .api import application, serve
from .poller import poll
from .store import Store


async def main(database: str, port: int, sensor_ports: list[int]) -> None:
    store = Store(database)
    sensors = [("127.0.0.1", sensor) for sensor in sensor_ports]
    app = application(store, lambda: sup)
    # In the order of their use: the API stops first, the writer last.
    sup: Supervisor = supervise(
        Service(store.write, name="store", max_restarts=20, backoff=Backoff(cap=1)),
        Service(
            poll,
            sensors,
            store,
            0.2,
            name="poller",
            restart="always",
            max_restarts=1000,  # sensors come and go
            backoff=Backoff(cap=0.5),
            watchdog=10,
        ),
        Service(partial(serve, app, port), name="api"),
        name="service",
    )
    await sup


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="service", description=__doc__)
    parser.add_argument("database")
    parser.add_argument("port", type=int)
    parser.add_argument("sensors", type=int, nargs="*")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    safeaio.run(main, args.database, args.port, args.sensors)

"""Serve the chat: `python -m chat PORT`."""

import argparse

import safeaio
from safeaio.websocket.uvicorn import serve

from .app import chat


async def main(port: int) -> None:
    app, hub = chat()
    await serve(app, hub, port=port, log_level="warning")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="chat", description=__doc__)
    parser.add_argument("port", type=int, help="where to serve HTTP")
    safeaio.run(main, parser.parse_args().port)

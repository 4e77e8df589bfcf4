"""What the raw habits cost and what safeaio does instead, measured here and now.

`make demo` runs it: `python examples/tour.py [--pages 5000] [--json]`.

A chapter is a function that takes a `Stage` and returns a `Report`. To add one,
write it in a file of its own and list it below.
"""

import argparse
import json
import sys
from collections.abc import Callable

import tour_cleanup
import tour_fetch
import tour_shutdown
import tour_supervise
import tour_websocket
from tour_stage import Report, Stage

CHAPTERS: list[Callable[[Stage], Report]] = [
    tour_fetch.everything,
    tour_fetch.first_failure,
    tour_cleanup.second_cancel,
    tour_shutdown.real_signals,
    tour_supervise.twenty_minutes,
    tour_websocket.deaf_clients,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=5000, help="pages to fetch")
    parser.add_argument(
        "--json", action="store_true", help="print the numbers on stdout, as JSON"
    )
    args = parser.parse_args()
    stage = Stage(pages=args.pages, stderr=args.json)
    numbers = {}
    for chapter in CHAPTERS:
        report = chapter(stage)
        stage.show(report)
        numbers[chapter.__name__] = report.rows
    if args.json:
        print(json.dumps(numbers))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

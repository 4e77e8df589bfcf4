"""A small, honest service under `supervise` and `safeaio.run`.

It asks sensors for their values and stores them in SQLite. A FastAPI application takes
readings, too, serves how many there are, and lets browsers watch them come. From the folder
above this one, `python -m service --help` says how to start it; docs/tutorial-services.md
has an example.
"""

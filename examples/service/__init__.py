"""A small, honest service under `supervise` and `safeaio.run`.

It asks sensors for their values, stores them in SQLite, and serves how many there are by a
FastAPI application, which takes readings, too. From the folder above this one,
`python -m service --help` says how to start it; docs/tutorial-services.md has an example.
"""

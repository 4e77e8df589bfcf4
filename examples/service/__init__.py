"""A small, honest service under `supervise` and `safeaio.run`: `python -m service`.

It polls sensors over HTTP, stores their readings in SQLite, and serves them by a FastAPI
application, which takes readings, too.
"""

"""A chat in the browser: rooms, who is there, and a button that makes a client slow.

From the folder above this one, `python -m chat 8000` serves it at http://127.0.0.1:8000.
"""

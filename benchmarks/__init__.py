"""Ratios against raw asyncio, the hand-written fast way and the peers: see README.md."""

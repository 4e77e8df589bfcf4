"""What a session costs over its bare transport, and a hub over other ways to fan out.

Server and clients are processes of their own, each pinned to a core of its own, and
`process` talks to them in lines of JSON.
"""

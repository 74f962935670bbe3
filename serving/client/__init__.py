"""A running server from outside, over HTTP. Imports nothing of the server."""

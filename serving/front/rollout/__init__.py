"""The front's part of a rollout: which side answers a request, what is counted of it, and shadows.

split     from a request's key to its side
"""

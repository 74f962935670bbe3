"""The front's part of a rollout: which side answers a request, what is counted of it, and shadows.

split     from a request's key to its side
traffic   chooses the side of each request, and counts what became of it
shadows   requests that the candidate answers, too, to be compared
rollouts  the three together, as the front meets them
"""

"""One file a protocol: its routes, bodies, answers, and the shape of errors. `serving.front.app` has their table."""

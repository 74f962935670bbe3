"""One file a protocol: its routes, its bodies, its answers, the shape of its errors. `serving.app` has their table."""

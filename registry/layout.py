"""The artifact's layout: names that the flavor writes and that others read."""

FLAVOR = "headwaiter"
LOADER = "serving.pyfunc"
MODEL_FOLDER = "model"

"""The artifact's layout: names that the flavor writes and that others read."""

FLAVOR = "headwaiter"
LOADER = "serving.pyfunc"
MODEL_FOLDER = "model"
TEXT_COLUMNS = ("inputs", "text")
"""Names of the column that holds the text where a table of a model's inputs has several columns."""

"""How long tests wait."""

WAIT_SECONDS = 300.0
"""The deadline of every wait. It only ends a test that hangs: on a busy machine a load takes minutes."""

"""How a package that is no dependency is installed: by the extra of `pyproject.toml` that names it and its versions."""


def how_to_install(extra: str) -> str:
    """What to do for the packages of an extra, in words that follow a colon."""
    return f"install the extra {extra}: pip install '.[{extra}]' in a checkout"

"""Options that several commands have."""

import math

import click

from registry.settings import DEFAULT_ALIAS

why = click.option("--why", required=True, help="The reason, for the history.")
who = click.option("--who", help="Who does it, for the history.  [default: the user]")
alias = click.option("--alias", default=DEFAULT_ALIAS, show_default=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class FiniteRange(click.FloatRange):
    """A number within bounds. click's own range lets NaN pass, which is on neither side of a bound."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails for one that is not finite or out of bounds."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number

"""Options that several commands have."""

import click

from registry.settings import DEFAULT_ALIAS

why = click.option("--why", required=True, help="The reason, for the history.")
who = click.option("--who", help="Who does it, for the history.  [default: the user]")
alias = click.option("--alias", default=DEFAULT_ALIAS, show_default=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

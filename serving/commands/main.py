"""The command line. Each command imports what it needs when it runs, so `--help` is fast."""

import os

import click

from registry.settings import prepare_mlflow
from serving.commands.batch import batch
from serving.commands.deploy import deploy
from serving.commands.doctor import doctor
from serving.commands.heads import heads
from serving.commands.init import init
from serving.commands.keys import keys
from serving.commands.models import check, log_command, suggest
from serving.commands.rollout import rollout
from serving.commands.serve import serve
from serving.commands.tools import bench, demo, monitoring, status
from serving.commands.versions import history, promote, rollback
from serving.runtime.logs import hide_secrets


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="headwaiter")
@click.pass_context
def main(context: click.Context) -> None:
    """Serve fine-tuned Hugging Face models from an MLflow registry: the right head, batched, versioned, measured."""
    hide_secrets()
    prepare_mlflow(os.environ, uploads=context.invoked_subcommand == log_command.name)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


for command in (
    *(init, heads, check, suggest, log_command, promote, rollback, history, rollout),
    *(serve, batch, keys, status, doctor, monitoring, deploy, demo, bench),
):
    main.add_command(command)

if __name__ == "__main__":
    main()

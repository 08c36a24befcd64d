"""The command line: parse, call, print. Decides nothing.

Nothing heavy is imported before a verb needs it: `runner --help` answers without TensorFlow, Ray or pyarrow.
"""

from __future__ import annotations

from importlib.metadata import version

import click

from runner.cli.judge import audit, report
from runner.cli.prepare import doctor, epsilon, import_, init, plan, schema, validate
from runner.cli.start import generate, resume, submit
from runner.cli.watch import list_, logs, status, stop


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("runner"), package_name="runner")
def cli() -> None:
    """Train LSTM text generators on Parquet records, here or on a Ray cluster.

    \b
    Example:
      runner init job.yaml --data records/
      runner submit job.yaml
      runner generate demo -n 1000 -o synthetic.parquet
    """


for _verb in (
    init,
    import_,
    submit,
    resume,
    status,
    list_,
    logs,
    stop,
    generate,
    report,
    epsilon,
    audit,
    validate,
    plan,
    doctor,
    schema,
):
    cli.add_command(_verb)

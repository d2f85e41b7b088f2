"""The ``thermae`` command: the group that every subcommand hangs on, and what its exit codes mean.

Exit codes, for scripts: 0 = done; 1 = not found, not stored, damage found, or the store refused (one line
on standard error says why); 2 = the command line itself was wrong. A store's error never ends in a
traceback; a defect of ours does, because hiding it would make it unreportable.
"""

from typing import Any

import click

import thermae
from thermae.cli.benchmarks import bench
from thermae.cli.completion import completion
from thermae.cli.demonstration import demo
from thermae.cli.maintenance import check, destroy, restore, snapshot
from thermae.cli.memory import shm
from thermae.cli.records import delete, get_value, list_keys, set_value
from thermae.cli.refusals import reason_of
from thermae.cli.serving import serve
from thermae.cli.statistics import stats


class RootGroup(click.Group):
    """Turns what a store or the system refuses into one line on standard error and exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        """Runs the command that was named."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # `thermae keys ... | head` is no error; click ends quietly on it
        except (thermae.ThermaeError, OSError) as error:
            raise click.ClickException(reason_of(error)) from error


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(thermae.__version__, prog_name="thermae")
def main() -> None:
    """A memory-speed data store that stays warm.

    STORE is a directory, or shm://NAME for one that lives in shared memory alone.

    \b
    Examples:
      thermae demo
      thermae set data/ greeting hello
      thermae get data/ greeting
      thermae stats data/ --watch

    Exit codes: 0 done, 1 not found or refused or damaged, 2 wrong usage.
    """


for command in (
    demo,
    serve,
    get_value,
    set_value,
    delete,
    list_keys,
    stats,
    check,
    snapshot,
    restore,
    destroy,
    shm,
    bench,
    completion,
):
    main.add_command(command)

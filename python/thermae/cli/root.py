"""The ``thermae`` command: the group that every subcommand hangs on, and what its exit codes mean.

Exit codes, for scripts: 0 = done; 1 = not found, not stored, damage found, or the store refused (one line
on standard error says why); 2 = the command line itself was wrong. A store's error never ends in a
traceback; a defect of ours does, because hiding it would make it unreportable.
"""

from importlib import import_module
from typing import Any

import click

import thermae
from thermae.cli.refusals import reason_of

# Where each command is. Its module is imported when it is called: a server that is started anew should answer
# at once, and `thermae get` need not know what draws tables.
_COMMANDS = {
    "bench": "thermae.cli.benchmarks:bench",
    "check": "thermae.cli.maintenance:check",
    "completion": "thermae.cli.completion:completion",
    "delete": "thermae.cli.records:delete",
    "demo": "thermae.cli.demonstration:demo",
    "destroy": "thermae.cli.maintenance:destroy",
    "get": "thermae.cli.records:get_value",
    "keys": "thermae.cli.records:list_keys",
    "restore": "thermae.cli.maintenance:restore",
    "serve": "thermae.cli.serving:serve",
    "set": "thermae.cli.records:set_value",
    "shm": "thermae.cli.memory:shm",
    "snapshot": "thermae.cli.maintenance:snapshot",
    "stats": "thermae.cli.statistics:stats",
}


class RootGroup(click.Group):
    """Turns what a store or the system refuses into one line on standard error and exit code 1."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names, in order."""
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of this name."""
        module, _, attribute = _COMMANDS.get(name, "").partition(":")
        if not module:
            return None
        command: click.Command = getattr(import_module(module), attribute)
        return command

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

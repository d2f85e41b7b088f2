"""``thermae demo``: see ``thermae.demo``."""

from pathlib import Path

import click

from thermae.cli.output import print_json, results_console, step_progress


@click.command()
@click.option(
    "--input",
    "input_directory",
    type=click.Path(path_type=Path),
    help="Load the files under this directory.  [default: the running Python's standard library]",
)
@click.option(
    "--keep",
    "keep_in",
    type=click.Path(path_type=Path),
    help="Keep the stores in this new directory, to look at afterwards.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.pass_context
def demo(context: click.Context, input_directory: Path | None, keep_in: Path | None, as_json: bool) -> None:
    """Show everything, on real files, in under a minute.

    Loads the files, reads them from 4 processes at once, kills -9 a writer in mid-write and then all
    processes, reopens warm, verifies every byte, demotes and evicts under a small hot tier, takes a
    snapshot while writing and restores it. Prints one table, beside dict, py-lmdb and diskcache. Removes
    what it made. Exit code 1 when anything does not verify.

    \b
    Examples:
      thermae demo
      thermae demo --input ~/photos
      thermae demo --keep /tmp/demo && thermae stats /tmp/demo/data
    """
    from thermae.demo.corpus import InputError
    from thermae.demo.run import STEPS, run

    if keep_in is not None and keep_in.exists():
        raise click.UsageError(f"--keep {keep_in}: it exists already; name a directory that does not")
    with step_progress() as progress:
        task = progress.add_task("starting", total=len(STEPS) + 2)

        def announce(doing: str) -> None:
            progress.update(task, description=doing, advance=1)

        try:
            report = run(input_directory, keep_in, announce)
        except InputError as error:
            raise click.UsageError(str(error)) from error
    print_json(report.document()) if as_json else report.print(results_console())
    if not report.ok:
        context.exit(1)

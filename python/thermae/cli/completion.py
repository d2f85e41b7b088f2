"""``thermae completion``: the script that teaches a shell to complete thermae's commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      thermae completion bash >> ~/.bashrc
      thermae completion zsh >> ~/.zshrc
      thermae completion fish > ~/.config/fish/completions/thermae.fish
    """
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.ClickException(f"no completion is known for {shell}; use bash, zsh or fish")
    root = context.find_root()
    script = completion_class(root.command, {}, "thermae", "_THERMAE_COMPLETE")
    click.echo(script.source())

"""``vnet completion``, and the names that completion offers: running labs, and what is inside them."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from vnet.runtime.places import all_labs


class LabName(click.types.StringParamType):
    """The name of a lab."""

    name = "lab"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the labs that have a place."""
        return [CompletionItem(place.name) for place in all_labs() if place.name.startswith(incomplete)]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    bash:  eval "$(vnet completion bash)"                       in ~/.bashrc
    zsh:   eval "$(vnet completion zsh)"                        in ~/.zshrc
    fish:  vnet completion fish > ~/.config/fish/completions/vnet.fish
    """
    from click.shell_completion import get_completion_class

    from vnet.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "vnet", "_VNET_COMPLETE").source())

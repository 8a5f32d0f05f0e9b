"""``vnet graph``: a topology as a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from vnet.errors import UsageError
from vnet.topology import load_topology

FORMATS: Final = ("svg", "dot", "mermaid", "text")
_BY_SUFFIX: Final = {
    ".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".md": "mermaid", ".txt": "text",
}  # fmt: skip


@click.command("graph")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "-f", "kind", type=click.Choice(FORMATS), help="Default: by the suffix of OUTPUT, else text.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")
def graph_command(file: Path, kind: str | None, output: Path | None) -> None:
    """Draw the topology in FILE: networks with their guests, routers between them, switches beneath.

    \b
    vnet graph lab.yaml                         as text
    vnet graph lab.yaml -o lab.svg
    vnet graph lab.yaml --format dot | dot -Tpng > lab.png
    """
    from vnet.topology.graph import draw  # needs networkx

    if kind is None:
        kind = _BY_SUFFIX.get(output.suffix.lower(), "") if output is not None else "text"
        if not kind:
            raise UsageError(f"which format has {output}? write --format {', '.join(FORMATS)}, or a suffix such as .svg")
    text = draw(load_topology(file), kind)
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error

"""Regenerates what the docs take from the code: tables in the README and docs/taxonomy.md, docs/catalogue.md, docs/commands.md. `make docs` runs it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import typer

from efface.cli.main import app
from efface.cli.settings import describe
from efface.core import registry
from efface.core.card import FOLDERS, Card, Technique

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- systems: made by make docs -->", "<!-- end of systems -->"
FURTHER = {"independent": "each apart", "accumulates": "add up", "refits": "make all anew"}
EXIT_CODES = (
    "0 done, 1 a bug in efface (with a traceback), 2 wrong use (one line that says what to do), 3 finished but a gate failed (`--fail-if`), "
    "130 stopped from the keyboard"
)


def pages() -> dict[Path, str]:
    """{path: text} of every page that holds generated text."""
    readme, taxonomy = ROOT / "README.md", ROOT / "docs" / "taxonomy.md"
    return {
        readme: between_markers(readme, table_of_systems()),
        taxonomy: between_markers(taxonomy, table_of_classes()),
        ROOT / "docs" / "catalogue.md": catalogue(),
        ROOT / "docs" / "commands.md": commands(),
    }


def between_markers(page: Path, fresh: str) -> str:
    """The text of a page with `fresh` between the two markers."""
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise ValueError(f"{page.name} has lost its markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{fresh}\n\n{END}{tail}"


def systems() -> Iterator[tuple[str, str, Card]]:
    """Kind, name and card of every system that comes with efface."""
    for kind in registry.kinds():
        for name in registry.names(kind):
            if "/" not in name:
                yield kind, name, registry.card(kind, name)


def table_of_systems() -> str:
    """One line a system."""
    rows = [[kind, f"`{name}`", card.title, card.paper, ", ".join(card.families)] for kind, name, card in systems()]
    return table(["kind", "name", "what it is", "paper", "runs on"], rows)


def table_of_classes() -> str:
    """What makes models forget, by technique and within it by intent."""
    order = get_args(Technique)
    there = [(kind, name, card) for kind, name, card in systems() if card.technique]
    there.sort(key=lambda entry: (order.index(entry[2].technique), entry[2].intent, entry[0] != "method"))
    rows = [
        [card.technique, card.intent, f"{kind} [`{name}`](catalogue.md#{kind}-{name})", ", ".join(card.touches), card.locality, ", ".join(card.data), card.sequence, card.guarantee]
        for kind, name, card in there
    ]
    return table(["technique", "intent", "system", "touches", "locality", "data", "sequence", "guarantee"], rows)


def catalogue() -> str:
    """All cards with their settings, by kind."""
    parts = ["# Catalogue\n\nMade from the cards and settings in the code by `make docs`; edit those. `efface show NAME` prints the same."]
    last = ""
    for kind, name, card in systems():
        if kind != last:
            parts.append(f"## {FOLDERS[kind].capitalize()}")
            last = kind
        parts.append(entry(kind, name, card))
    return "\n\n".join(parts) + "\n"


def entry(kind: str, name: str, card: Card) -> str:
    """One system: what it does, what it needs, where it departs, and its settings."""
    system = registry.load(kind, name, to_run=False)
    lines = [f"### {kind} `{name}`", "", f"**{card.title}**{f' ({card.paper})' if card.paper else ''}. {sentence(system)}", ""]
    facts = [
        ("intent", card.intent), ("technique", card.technique), ("touches", touched(card)), ("must be given", ", ".join(card.data)),
        ("further requests", FURTHER.get(card.sequence, "")), ("guarantee", card.guarantee), ("runs on", ", ".join(card.families)), ("needs", ", ".join(card.needs)),
        ("reads", ", ".join(card.uses)),
        ("the adversary sees", card.access if kind == "attack" else ""), ("good is", card.better), ("extra", card.extra), ("departs", card.departs),
    ]
    lines += [f"- {label}: {text}" for label, text in facts if text]
    settings = describe(system.Config)
    if settings:
        rows = [[f"`{s['name']}`", cell(s["type"]), f"`{s['default']}`", cell(s["help"])] for s in settings]
        lines += ["", table(["setting", "type", "default", "meaning"], rows)]
    return "\n".join(lines)


def touched(card: Card) -> str:
    """What is changed, and how much of the weights."""
    return ", ".join(card.touches) + (f" ({card.locality})" if card.locality not in ("", "none") else "")


def sentence(system: Any) -> str:
    """The first paragraph of the class's docstring, in one line."""
    return " ".join((inspect.getdoc(system) or "").split("\n\n")[0].split())


def commands() -> str:
    """Every verb with its arguments and options."""
    parts = [f"# Commands\n\nMade from the command line's own help by `make docs`. Exit codes: {EXIT_CODES}."]
    tree: Any = typer.main.get_command(app)
    for name, command in tree.commands.items():
        rows = []
        for parameter in command.params:
            if "--help" in parameter.opts:
                continue
            label = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name.upper()
            default = "" if parameter.default in (None, "", False) or parameter.required else f"`{parameter.default}`"
            rows.append([f"`{label}`", "required" if parameter.required else default, cell(parameter.help or "")])
        parts.append(f"## efface {name}\n\n{' '.join((command.help or '').split())}\n\n{table(['', 'default', 'meaning'], rows)}")
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(value: object) -> str:
    """Text that does not break a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def public_errors() -> list[str]:
    """Names of all error classes."""
    tree = ast.parse((registry.ROOT / "core" / "errors.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

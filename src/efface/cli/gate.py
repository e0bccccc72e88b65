"""Gates: conditions on a report that fail a command, such as "attack.worst>0.1"."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import NamedTuple

from efface.core.errors import BadConfig, UnknownName
from efface.report.view import Line, View

OPERATORS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne}
FORM = re.compile(r"^\s*(?P<name>[a-z][\w./-]*)\s*(?P<sign>>=|<=|==|!=|>|<)\s*(?P<value>.+?)\s*$")


class Gate(NamedTuple):
    """Fails when the named number stands in this relation to the value."""

    text: str
    name: str
    sign: str
    value: str


def parse(texts: Sequence[str] | None) -> list[Gate]:
    """The gates that texts spell; BadConfig for what is none."""
    return [_one(text) for text in texts or ()]


def _one(text: str) -> Gate:
    match = FORM.match(text)
    if match is None:
        raise BadConfig(f'--fail-if {text!r}: not of the form NAME>NUMBER, such as "attack.worst>0.1" or "verdict!=forgotten"')
    gate = Gate(text, match["name"], match["sign"], match["value"].strip("'\""))
    if gate.name == "verdict":
        if gate.sign not in ("==", "!="):
            raise BadConfig(f"--fail-if {text!r}: a verdict is compared with == or !=")
    elif not _number(gate.value):
        raise BadConfig(f"--fail-if {text!r}: {gate.value!r} is not a number")
    return gate


def failed(gates: Sequence[Gate], view: View) -> list[str]:
    """One line for each gate that fails. A gate on a number that is not there fails too. Raises UnknownName."""
    lines = []
    for gate in gates:
        if gate.name == "verdict":
            if OPERATORS[gate.sign](view.word.lower(), gate.value.lower()):
                lines.append(f"{gate.text}: the verdict is {view.word.lower()!r}")
            continue
        value, what = _find(gate.name, view)
        if value is None:
            lines.append(f"{gate.text}: {what}")
        elif OPERATORS[gate.sign](value, float(gate.value)):
            lines.append(f"{gate.text}: {what} = {value:.4g}")
    return lines


def _find(name: str, view: View) -> tuple[float | None, str]:
    """The number that a gate names, and what it is (or why there is none)."""
    if name == "attack.worst":
        if view.worst is None or view.worst.distance is None:
            return None, view.worst_text
        return abs(view.worst.distance), f"distance of {view.worst.name} from the reference"
    known: dict[str, tuple[float | None, str]] = {"attack.worst": (None, "")}
    for line in (*view.metrics, *view.attacks):
        known |= _of(line)
    for skip in view.skipped:
        known.setdefault(skip.system.replace("/", ".", 1), (None, f"{skip.status}: {skip.why}"))
    if name not in known:
        raise UnknownName.among("number in the report", name, [*known, "verdict"])
    return known[name]


def _of(line: Line) -> dict[str, tuple[float | None, str]]:
    name = f"{line.kind}.{line.name}"
    distance = abs(line.distance) if line.distance is not None else None
    return {
        name: (line.cells["candidate"].value, line.name if line.cells["candidate"].value is not None else line.note or "it has no number"),
        f"{name}.distance": (distance, f"distance of {line.name} from the reference" if line.compared else f"{line.name} has no reference"),
    }


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""The limits that keep the project small, checked over every file."""

import ast
from pathlib import Path

import pytest

import efface
from efface.core.card import FOLDERS

ROOT = Path(efface.__file__).parent
TESTS = Path(__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
SYSTEMS = [path for folder in FOLDERS.values() for path in sorted((ROOT / folder).glob("[a-z]*.py"))]
SYSTEM_LINES, LINES, FUNCTION, PARAMETERS, FIELDS, RUN = 300, 400, 60, 8, 15, 60
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "handler", "base"}
UNPICKLES = {("torch", "load"), ("joblib", "load"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle")}
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_CODE = {"eval", "exec", "__import__"}
CONVERTS = "data/torch_weights.py"
"""The one file that may call torch.load, with weights_only=True and on a package's file whose SHA-256 was checked, to keep it as safetensors."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT.parent if ROOT in path.parents else TESTS.parent))


def faults(source: str, system: bool = False, cli: bool = False, converts: bool = False) -> list[str]:
    """Everything in a source text that breaks a limit."""
    tree = ast.parse(source)
    found = []
    limit = SYSTEM_LINES if system else LINES
    if (count := len(source.splitlines())) > limit:
        found.append(f"{count} lines, at most {limit}")
    if source.strip() and ast.get_docstring(tree) is None:
        found.append("no docstring")
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [f"{line}: {fault}" for fault in in_function(node, cli)]
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Config") for base in node.bases):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            if len(fields) > FIELDS:
                found.append(f"{line}: {node.name} has {len(fields)} fields, at most {FIELDS}")
        elif isinstance(node, ast.Assert):
            found.append(f"{line}: assert, which -O takes away")
        elif isinstance(node, ast.Global):
            found.append(f"{line}: global state")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{line}: bare except")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else {str(node.module).split(".")[0]}
            found += [f"{line}: imports {name}" for name in sorted(names & PICKLING)]
        elif isinstance(node, ast.Call):
            found += [f"{line}: {fault}" for fault in ([] if converts and is_safe_load(node) else in_call(node))]
    return found


def is_safe_load(node: ast.Call) -> bool:
    """Whether a call is torch.load with weights_only=True written out."""
    safe = any(keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True for keyword in node.keywords)
    return ast.unparse(node.func) == "torch.load" and safe


def in_function(node: ast.FunctionDef | ast.AsyncFunctionDef, cli: bool):
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > FUNCTION:
        yield f"{node.name} has {length} lines, at most {FUNCTION}"
    given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if arg.arg not in ("self", "cls")]
    if len(given) > PARAMETERS and not cli:  # a verb of the command line has one parameter an option
        yield f"{node.name} has {len(given)} parameters, at most {PARAMETERS}"
    if node.args.kwarg is not None and node.args.kwarg.arg in ("kwargs", "kw", "options"):
        yield f"{node.name} takes **{node.args.kwarg.arg}"


def in_call(node: ast.Call):
    called = node.func
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and (called.value.id, called.attr) in UNPICKLES:
        yield f"{called.value.id}.{called.attr} reads pickles"
    if isinstance(called, ast.Name) and called.id in RUNS_CODE:
        yield f"{called.id} runs text as code"
    for keyword in node.keywords:
        if keyword.arg in ("trust_remote_code", "allow_pickle") and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
            yield f"{keyword.arg} is not False"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_source(path):
    assert not faults(path.read_text(encoding="utf-8"), path in SYSTEMS, "cli" in path.parts, path == ROOT / CONVERTS)
    assert path.stem not in VAGUE, "a module is named for what it holds"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=name_of)
def test_tests_are_short_too(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", SYSTEMS, ids=name_of)
def test_system(path):
    """A test file of its own, a card, and one class that runs; the config stands before it."""
    assert (TESTS / path.parent.name / f"test_{path.stem}.py").exists(), f"no tests/{path.parent.name}/test_{path.stem}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    carded = [
        node for node in classes
        if any(isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "card" for item in node.body)
    ]
    assert len(carded) == 1, "one system a file"
    verbs = {item.name: item for item in carded[0].body if isinstance(item, ast.FunctionDef)}
    assert {"run", "case"} & set(verbs)
    configs = [node for node in classes if node.name.endswith("Config")]
    assert all(node.lineno < carded[0].lineno for node in configs), "the config stands before the class"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\n" * 401, "401 lines, at most 400"),
        ("x = 1", "no docstring"),
        ("def f():\n" + "    x = 1\n" * 60, "f has 61 lines, at most 60"),
        ("def f(a, b, c, d, e, f, g, h, i): ...", "f has 9 parameters, at most 8"),
        ("def f(*, a, b, c, d, e, f, g, h, i): ...", "f has 9 parameters, at most 8"),
        ("def f(**kwargs): ...", "f takes **kwargs"),
        ("class C(Config):\n" + "".join(f"    a{n}: int = 0\n" for n in range(16)), "C has 16 fields, at most 15"),
        ("assert True", "assert"),
        ("def f():\n    global x", "global state"),
        ("try:\n    x\nexcept:\n    pass", "bare except"),
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("torch.load('x')", "torch.load reads pickles"),
        ("np.load('x', allow_pickle=True)", "allow_pickle is not False"),
        ("f(trust_remote_code=True)", "trust_remote_code is not False"),
        ("eval('1')", "eval runs text as code"),
    ],
)
def test_the_limits_bite(source, says):
    assert says in " ".join(faults(source))


def test_one_file_may_load_tensors_alone():
    """The exception is for that file, and for the safe form of the call."""
    safe, unsafe = '"""Text."""\ntorch.load(a, weights_only=True)', '"""Text."""\ntorch.load(a, weights_only=False)'
    assert not faults(safe, converts=True)
    assert faults(safe) and faults(unsafe, converts=True) and faults('"""Text."""\ntorch.load(a)', converts=True)
    assert faults('"""Text."""\njoblib.load(a, weights_only=True)', converts=True)


def test_what_is_allowed_passes():
    assert not faults('"""Text."""\n\n\ndef f(self, a, b, c, d, e, f, g, h, **changes):\n    return f(allow_pickle=False)\n')
    assert any("301 lines, at most 300" in fault for fault in faults("x = 1\n" * 301, system=True))

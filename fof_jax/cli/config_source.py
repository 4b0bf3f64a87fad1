"""Documentation of config fields, read from the comments of a config file."""

import ast
import io
import re
import tokenize
from pathlib import Path

_FIELD = re.compile(r"config\.([\w.]+)")


def docstring(path: Path) -> str:
    """The module docstring of a config file; "" without one."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def field_comments(path: Path) -> dict[str, str]:
    """Comments of the fields that a config file assigns, by dotted name.

    A field's comment is the one that ends its statement, else the comment lines right
    above it, else those above the field assigned on the line before.

    Args:
      path: a config file with statements `config.FIELD = VALUE`.

    Returns:
      one line of text for each documented field.
    """
    text = path.read_text(encoding="utf-8")
    alone, trailing = _comments(text)
    comments: dict[str, str] = {}
    inherited, line_after = "", -1
    for node in _assignments(text):
        name = _FIELD.fullmatch(ast.unparse(node.targets[0]))
        if name is None:
            continue
        end = node.end_lineno or node.lineno
        above = _above(alone, node.lineno)
        if not above and node.lineno == line_after:
            above = inherited
        comment = trailing.get(end) or above
        section = ast.unparse(node.value) == "ConfigDict()"
        if comment and not section:
            comments.setdefault(name[1], comment)
        ends = section or end in trailing
        inherited, line_after = "" if ends else above, end + 1
    return comments


def _assignments(text: str) -> list[ast.Assign]:
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Assign)]
    return sorted(nodes, key=lambda node: node.lineno)


def _comments(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Comments by line: those alone on their line, and those that end a statement."""
    alone: dict[int, str] = {}
    trailing: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            whole = token.line.lstrip().startswith("#")
            (alone if whole else trailing)[token.start[0]] = token.string.lstrip("# ")
    return alone, trailing


def _above(alone: dict[int, str], line: int) -> str:
    """The comment lines right above a statement, joined."""
    lines: list[str] = []
    while line - 1 in alone:
        line -= 1
        lines.insert(0, alone[line])
    return " ".join(lines)

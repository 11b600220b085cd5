"""Sphinx settings of the documentation: `make docs` builds it without a warning."""

import inspect
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.util import inspect as sphinx_inspect

DOCS = Path(__file__).parent
PROJECT = DOCS.parent
sys.path.insert(0, str(PROJECT))

import fastseg  # noqa: E402  found by the line above

project = "fastseg"
author = "The fastseg developers"
copyright = author
version = release = fastseg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"fastseg {version}"
html_static_path = ["_static"]
html_css_files = ["fastseg.css"]
html_copy_source = False
html_show_sourcelink = False

# Our docstrings name a dtype, a shape and a unit for each array, which no annotation
# does; so signatures show names and defaults only.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
# PyTorch is large: the reference of fastseg.torch is built without it as well.
autodoc_mock_imports = [] if find_spec("torch") else ["torch"]
maximum_signature_line_length = 100
# `name` in a docstring is a link if that name is in the reference, else plain code.
default_role = "py:obj"
smartquotes = False

# Pages whose text stands in a file at the top of the project.
PROJECT_PAGES = {
    "architecture": "ARCHITECTURE.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}

# Names that become links wherever a docstring has them in prose. Others, such as Link
# and Store, may be words of a sentence.
LINKED = {name: f"fastseg.errors.{name}" for name in dir(fastseg.errors)}
LINKED |= {name: f"fastseg.{name}" for name in fastseg.__all__}
LINKED = {
    name: path
    for name, path in LINKED.items()
    if re.fullmatch(r"\w+(Error|Warning|Report|Table)|Loader", name)
}
LINKED["Compose"] = "fastseg.augment.Compose"

# "name : text", or "name, name : text"; a colon in prose has no space before it.
FIELD = re.compile(r"(?P<names>\w+(?:, \w+)*) +: (?P<text>.+)")
# One of several values that an option takes: "value" text, or a word and two spaces.
CHOICE = re.compile(r'(?P<value>"[^"]*"|\S+(?: \S+)*?(?=  )) +(?P<text>\S.*)')


def setup(app):
    """Connect the conversions below to Sphinx's events."""
    app.connect("source-read", read_project_page)
    app.connect("autodoc-process-signature", show_values)
    app.connect("autodoc-process-docstring", convert_docstring)


def read_project_page(app, page, source):
    """Replace a page of PROJECT_PAGES by its file at the top of the project."""
    path = PROJECT / PROJECT_PAGES.get(page, "")
    if path.is_file():
        app.env.note_dependency(str(path))
        text = path.read_text(encoding="utf-8")
        source[0] = re.sub(r"(?<!!)\[([^]]+)\]\(([^)]+)\)", relink, text)


def relink(match):
    """Return a link of a file at the top of the project as a page of the site has it.

    Links to files that are no pages become plain text.
    """
    text, target = match.groups()
    path, hash_sign, anchor = target.partition("#")
    pages = {file: f"{page}.md" for page, file in PROJECT_PAGES.items()}
    if "://" in target or not path:
        return match[0]
    if path.startswith("docs/") and (PROJECT / path).is_file():
        return f"[{text}]({path.removeprefix('docs/')}{hash_sign}{anchor})"
    if path in pages:
        return f"[{text}]({pages[path]}{hash_sign}{anchor})"
    return text


def show_values(app, what, name, obj, options, signature, annotation):
    """Return a signature with the values of constants instead of their names.

    A class whose base is mocked has no signature of its own; take that of __init__.
    """
    if inspect.isclass(obj) and signature == "(*args, **kwargs)":
        own = sphinx_inspect.signature(obj.__init__, bound_method=True)
        signature = sphinx_inspect.stringify_signature(own, show_annotation=False)
    function = inspect.unwrap(obj.__init__ if inspect.isclass(obj) else obj)
    constants = getattr(function, "__globals__", {})

    def value_of(match):
        return f"={constants.get(match[1], match[1])!r}"

    if signature:
        signature = re.sub(r"=([A-Z][A-Z_]+)\b", value_of, signature)
    return signature, annotation


def convert_docstring(app, what, name, obj, options, lines):
    """Turn a docstring, a list of lines, into reStructuredText, in place.

    Paragraphs of "name : text" become definition lists, drawings stay as they are, and
    all else is prose, in which nothing but `code` is markup.
    """
    converted = []
    for paragraph in paragraphs(lines):
        if all(FIELD.match(line) or line.startswith(" ") for line in paragraph):
            converted += definitions(paragraph) or literal(paragraph)
        elif any("─" in line or line.startswith(" ") for line in paragraph):
            converted += literal(paragraph)
        else:
            converted += escape(paragraph)
        converted.append("")
    lines[:] = converted


def paragraphs(lines):
    """Yield the blocks of lines between empty lines."""
    block = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def definitions(paragraph):
    """Return a definition list of the fields of a paragraph, [] if it has none."""
    fields = []
    for line in paragraph:
        if match := FIELD.match(line):
            fields.append((match["names"].split(", "), match.start("text"), [line]))
        elif fields:
            fields[-1][2].append(line)
        else:
            return []
    converted = []
    for names, column, (first, *more) in fields:
        converted.append(", ".join(f"``{name}``" for name in names))
        prose, values = split_field(first[column:], column, more)
        body = escape(prose) if prose else []
        if values:
            body += ["", *bullets(values), ""] if prose else [*bullets(values), ""]
        converted += [f"    {line}" for line in body]
    return converted


def split_field(text, column, more):
    """Return the prose of a field and the values that it lists below, one a line.

    text   : the first line behind the colon, which is at this column
    more   : the lines below it

    Values begin at that column. Each is (value, lines of its text).
    """
    first = next(
        (k for k, line in enumerate(more) if line.startswith(" " * column)), len(more)
    )
    prose, listed = [text, *more[:first]], [line[column:] for line in more[first:]]
    if first == 0 and CHOICE.match(text):
        prose, listed = [], [text, *listed]
    values = []
    for line in listed:
        match = CHOICE.match(line)
        if match:
            values.append((match["value"], [match["text"]]))
        elif values and line.startswith(" "):
            values[-1][1].append(line.strip())
        else:
            values = []
            break
    if len(values) < 2:
        return [line.strip() for line in (text, *more)], []
    return [line.strip() for line in prose], values


def bullets(values):
    """Return a bullet list of the values of a field."""
    converted = []
    for value, lines in values:
        first, *more = escape(lines)
        converted.append(f"- ``{value}``: {first}")
        converted += [f"  {line}" for line in more]
    return converted


def literal(paragraph):
    """Return a paragraph as it is, in a block of code."""
    return ["::", "", *(f"    {line}" for line in paragraph)]


def escape(lines):
    """Return lines of prose without markup, but for `code` and links to names."""
    parts = "\n".join(lines).split("`")
    parts[::2] = [re.sub(r"[\\*|]|\w+", mark_up, part) for part in parts[::2]]
    # A name in single backticks becomes a link; anything else gets a second pair, as
    # Sphinx would take a leading dot or a "<" as markup.
    parts[1::2] = [
        full_name(part) if re.fullmatch(r"\w[\w.]*", part) else f"`{part}`"
        for part in parts[1::2]
    ]
    return "`".join(parts).split("\n")


def mark_up(match):
    """Return a special character with a backslash, or a name as a link."""
    text = match[0]
    if text in LINKED:
        return f":py:obj:`{full_name(text)}`"
    return re.sub(r"[\\*|]|_$", r"\\\g<0>", text)


def full_name(text):
    """Return a name with its path in the reference, if it is one of LINKED.

    Sphinx itself looks for a name only near the object that the docstring describes.
    """
    return f"{text} <{LINKED[text]}>" if text in LINKED else text

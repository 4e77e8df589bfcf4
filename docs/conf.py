"""Sphinx configuration; builds without a network."""

project = "safeaio"
author = "the safeaio contributors"
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "safeaio"

myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

# In docstrings, `name` is a link if it names something of ours, and code otherwise.
default_role = "py:obj"
nitpick_ignore_regex = [
    ("py:obj", r"(?!safeaio).*"),
    # Of other projects: to link them would need their inventories, and a network.
    ("py:.*", r"(anyio|asyncio|collections|contextvars|warnings)\..*"),
    ("py:class", r"Abstract(Async)?ContextManager|socket\.socket|[MTR]"),
]
autodoc_member_order = "bysource"
# Signatures are written out in reference.md: those of overloads would fill pages.
autodoc_typehints = "none"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Cancellation", "notes_style")]

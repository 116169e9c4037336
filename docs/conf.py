"""How the documentation is built: ``make docs``. The reference is written from the code first (`tools.reference`)."""

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml, mathml_elements

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.reference import write_reference  # noqa: E402 (after the path)

project = "alertprod"
author = "the authors of alertprod"
copyright = "the authors of alertprod"
version = release = installed("alertprod")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_design",
]
nitpicky = True
# names of other projects: their pages are not fetched, the build needs no network
nitpick_ignore_regex = [("py:.*", r"(?!alertprod).*")]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "conf.py"]
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = f"alertprod {release}"
html_static_path = ["_static"]
html_css_files = ["local.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
}

write_reference(ROOT / "docs" / "reference" / "generated")


def _mathml(translator: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers draw themselves: no script is fetched."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    root = mathml_elements.math(xmlns="http://www.w3.org/1998/Math/MathML", display=display)
    translator.body.append(latex2mathml.parse_latex_math(root, node.astext()).toxml())
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))


html_math_renderer = "mathml"

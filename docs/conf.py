"""Sphinx configuration: MyST pages, the furo theme, tables generated from the code."""

from maestro_core import __version__

project = "Maestro"
author = "Maestro contributors"
copyright = "Maestro contributors"
version = release = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_static"]
html_theme = "furo"
html_title = "Maestro"
html_static_path = ["_static"]
nitpicky = True

"""Prints a list of packages from pyproject.toml, one a line: `build`, or the name of an extra.
The Makefile calls it, so that every version stands in one place."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
name = sys.argv[1]
if name == "build":
    print(*project["build-system"]["requires"], sep="\n")
else:
    print(*project["project"]["optional-dependencies"][name], sep="\n")

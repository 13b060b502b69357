"""Write an SBOM (CycloneDX 1.6, JSON) of what the checkout is made of, and validate it.

Python's packages are those of requirements.lock, with their hashes; Debian's are those of
the sysroots that set-up has unpacked, if it has.  `make sbom` calls it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vdxgk_lab import trees
from vdxgk_lab.cache import Cache

ROOT = Path(__file__).parents[1]
_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(f"the SBOM is not valid: {error}" if error else 0)
"""


def python_packages(tools: Path) -> dict[str, Any]:
    """The SBOM of requirements.lock, by cyclonedx-py in ``tools``."""
    made = subprocess.run(
        [
            *(tools / "cyclonedx-py", "requirements", "--pyproject", ROOT / "pyproject.toml"),
            *("--output-reproducible", "--short-PURLs", "--sv", "1.6", ROOT / "requirements.lock"),
        ],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        check=True,
    )
    sbom: dict[str, Any] = json.loads(made.stdout)
    for component in sbom["components"]:
        del component["description"]  # its lines of the lock file once more
    return sbom


def debian_packages(cache: Cache) -> Iterator[dict[str, Any]]:
    """The packages of every sysroot that is there, each once."""
    seen = set()
    for recipe in (trees.QEMU, trees.OVMF, trees.NOVNC, *trees.GUESTS.values()):
        tree = trees.Tree(cache.path(recipe.name, recipe.key))
        if not tree.root.is_dir():
            print(f"sbom: {recipe.name} is not set up, and left out", file=sys.stderr)
            continue
        for name, version in tree.versions().items():
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}"
            if purl not in seen:
                seen.add(purl)
                yield {
                    "type": "library",
                    "bom-ref": purl,
                    "name": name,
                    "version": version,
                    "purl": purl,
                }


def main(tools: Path, output: Path) -> None:
    """Make it with the programs in ``tools``."""
    sbom = python_packages(tools)
    sbom["components"] += debian_packages(Cache())
    text = json.dumps(sbom, indent=1)
    subprocess.run([tools / "python", "-c", _VALIDATE], input=text, text=True, check=True)
    output.parent.mkdir(exist_ok=True)
    output.write_text(text + "\n")
    print(f"{output}: {len(sbom['components'])} components")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

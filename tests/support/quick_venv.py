"""A stand-in for the module `venv`. It links an installed pip: to unpack one takes seconds."""

from pathlib import Path

_MODULE = """\
import sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))

import venv

target = Path(sys.argv[-1])
venv.create(target, clear="--clear" in sys.argv, symlinks=True)
(packages,) = target.glob("lib/python*/site-packages")
for package in Path({packages!r}).iterdir():
    (packages / package.name).symlink_to(package)
"""


def write_quick_venv(folder: Path, environment: Path) -> None:
    """Write a `venv.py` into `folder`, which is to stand in PYTHONPATH.

    `environment` is a virtual environment made by the real module. Its packages are moved into
    `folder` and linked back, so that they outlive it.
    """
    (packages,) = environment.glob("lib/python*/site-packages")
    kept = folder / "packages"
    packages.rename(kept)
    packages.mkdir()
    for package in kept.iterdir():
        (packages / package.name).symlink_to(package)
    (folder / "venv.py").write_text(_MODULE.format(packages=str(kept)), encoding="utf-8")

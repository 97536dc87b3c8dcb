"""`python -m services.metrics.export`: generates the files in `deploy/`.

A test fails while they are out of date.
"""

from pathlib import Path

from services.metrics.export.files import generate_files

_FOLDER = Path(__file__).parents[3] / "deploy"

if __name__ == "__main__":
    for name, text in generate_files().items():
        path = _FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)

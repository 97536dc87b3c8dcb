"""`python -m services.metrics.export`: writes the files in `deploy/` anew. A test says when that was forgotten."""

from pathlib import Path

from services.metrics.export.files import files

_FOLDER = Path(__file__).parents[3] / "deploy"

if __name__ == "__main__":
    for name, text in files().items():
        path = _FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)

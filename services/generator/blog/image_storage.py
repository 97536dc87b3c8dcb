"""Where hero images are kept: a folder by default; an object storage is another class with the same one method."""

import asyncio
import os
from pathlib import Path
from typing import Protocol

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


class ImageStorage(Protocol):
    async def save_image(self, store: str, name: str, content: bytes, media_type: str) -> str:
        """Keep an image; where readers find it. The same name again replaces it."""
        ...


class FolderImageStorage:
    """Images as files below one folder, a folder a store; something else serves them at `base_url`."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self._folder = folder
        self._base_url = base_url.rstrip("/")

    async def save_image(self, store: str, name: str, content: bytes, media_type: str) -> str:
        """OSError when it cannot be written. The file appears whole."""
        file = name + _SUFFIXES.get(media_type, ".bin")
        await asyncio.to_thread(self._write, self._folder / store / file, content)
        return f"{self._base_url}/{store}/{file}"

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)

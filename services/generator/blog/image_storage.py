"""Stores hero images. The default is a folder; another storage implements the same method."""

import asyncio
import os
from pathlib import Path
from typing import Protocol

from services.generator.providers.replicate.image_files import IMAGE_FORMATS

_SUFFIXES = {known.media_type: known.suffix for known in IMAGE_FORMATS}


class ImageStorage(Protocol):
    async def save_image(self, store: str, name: str, content: bytes, media_type: str) -> str:
        """Save an image and return its public URL. The same name again replaces the image."""
        ...


class FolderImageStorage:
    """Stores images as files in one folder for each store.

    A web server publishes it at `base_url`.
    """

    def __init__(self, folder: Path, base_url: str) -> None:
        self._folder = folder
        self._base_url = base_url.rstrip("/")

    async def save_image(self, store: str, name: str, content: bytes, media_type: str) -> str:
        """Save an image atomically and return its URL. Raises `OSError`."""
        file = name + _SUFFIXES.get(media_type, ".bin")
        await asyncio.to_thread(self._write, self._folder / store / file, content)
        return f"{self._base_url}/{store}/{file}"

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)

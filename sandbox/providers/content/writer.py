"""Writes plausible posts about the product or keyword in a prompt from seeded random phrases."""

import hashlib
import json
import random
import re
from typing import Any

from sandbox.providers.content import phrases


class Subject:
    """The subject of a prompt, read from its first JSON object (the store's data)."""

    def __init__(self, prompt: str) -> None:
        data = _first_object(prompt)
        product = _object(data.get("product"))
        keywords = data.get("keywords") or [
            str(data.get("sourceId", "this subject")).replace("-", " ")
        ]
        self.name = str(data.get("title") or product.get("title") or keywords[0])
        self.kind = str(product.get("type") or keywords[0] or self.name).lower()
        self.vendor = str(product.get("vendor") or "the maker")
        self.tags = [str(tag) for tag in product.get("tags") or keywords][:8]
        self.price = str(product.get("price") or "")
        self.facts = _sentences(str(product.get("description") or ""))
        outline = _object(data.get("outline"))
        self.title = str(outline.get("title") or "")
        self.headings = [str(heading) for heading in outline.get("headings") or []]


def write_answer(schema: dict[str, Any], prompt: str, seed: int) -> dict[str, Any]:
    """Return an object that matches the JSON schema.

    Each property is filled according to its name. The same prompt and seed give the same object.
    """
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    writer = _Writer(Subject(prompt), random.Random(digest), schema.get("$defs", {}))
    filled: dict[str, Any] = writer.fill("", schema)
    return filled


class _Writer:
    def __init__(self, subject: Subject, rng: random.Random, definitions: dict[str, Any]) -> None:
        self._subject = subject
        self._rng = rng
        self._definitions = definitions
        self._title = subject.title or self._phrase(phrases.TITLES)
        self._headings = subject.headings or [
            self._phrase([text]) for text in rng.sample(phrases.HEADINGS, rng.randint(3, 5))
        ]
        self._facts = list(subject.facts)

    def fill(self, name: str, schema: dict[str, Any]) -> Any:
        if "$ref" in schema:
            return self.fill(name, self._definitions[schema["$ref"].rsplit("/", 1)[-1]])
        match schema.get("type"):
            case "object":
                return {
                    key: self.fill(key, part) for key, part in schema.get("properties", {}).items()
                }
            case "array":
                return self._list(name, schema["items"])
            case "integer" | "number":
                return self._rng.randint(1, 5)
            case "boolean":
                return True
            case _:
                return self._text(name)

    def _list(self, name: str, items: dict[str, Any]) -> list[Any]:
        if name == "headings":
            return self._headings
        if name == "keywords":
            return self._subject.tags[:6]
        if name == "sections":
            return [
                {
                    key: heading if key == "heading" else self.fill(key, part)
                    for key, part in self._properties(items)
                }
                for heading in self._headings
            ]
        return [self._paragraph() for _ in range(self._rng.randint(2, 3))]

    def _properties(self, items: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        resolved = self._definitions[items["$ref"].rsplit("/", 1)[-1]] if "$ref" in items else items
        return list(resolved.get("properties", {}).items())

    def _text(self, name: str) -> str:
        if name == "title":
            return self._title
        if name == "slug":
            return re.sub(r"[^a-z0-9]+", "-", self._title.lower()).strip("-")
        if name == "meta_description":
            return self._phrase(phrases.DESCRIPTIONS)[:155]
        if name == "angle":
            return self._phrase(phrases.ANGLES)
        return self._paragraph()

    def _paragraph(self) -> str:
        sentences = [
            self._phrase([text])
            for text in self._rng.sample(phrases.SENTENCES, self._rng.randint(3, 5))
        ]
        if self._facts and self._rng.random() < 0.6:
            sentences.insert(1, self._facts.pop(0))
        return " ".join(sentences)

    def _phrase(self, choices: list[str]) -> str:
        subject = self._subject
        text = self._rng.choice(choices).format(
            name=subject.name,
            kind=subject.kind,
            vendor=subject.vendor,
            place=self._rng.choice(phrases.PLACES),
            tag=self._rng.choice(subject.tags or [subject.kind]),
            trait=self._rng.choice(phrases.TRAITS),
            who=self._rng.choice(phrases.PEOPLE),
            price=f" at {subject.price}" if subject.price else "",
        )
        return text[:1].upper() + text[1:]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _first_object(text: str) -> dict[str, Any]:
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except json.JSONDecodeError:
            start = text.find("{", start + 1)
            continue
        return _object(found)
    return {}


def _sentences(text: str) -> list[str]:
    found = re.split(r"(?<=[.!?])\s+", text)
    return [sentence.strip() for sentence in found if 30 <= len(sentence.strip()) <= 240][:8]

"""The demo's stores: products that ingest would refuse are reported before anything starts."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sandbox.cli import demo
from sandbox.demo.stores import built_in_stores, store_from_export
from sandbox.system.environment import choose_ports
from services.ingest.submit.rules import parse_request
from shared.domain.errors import Unavailable

HEADER = "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price\n"


def export(tmp_path: Path, *rows: str, name: str = "shop.csv") -> Path:
    path = tmp_path / name
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_refused_rows_are_reported_and_good_rows_are_used(tmp_path: Path) -> None:
    shop = store_from_export(
        export(
            tmp_path,
            f"{'h' * 201},Long handle,,,,,1",
            "tee,Tee,,,,,5",
            f"mug,{'t' * 301},,,,,2",
            name="_my shop.csv",
        )
    )
    assert shop.name == "my-shop"
    assert [request["sourceId"] for request in shop.requests] == ["tee"]
    assert [fault.partition(":")[0] for fault in shop.faults] == ["line 2", "line 4"]
    assert "sourceId" in shop.faults[0]
    assert "at most 200 characters" in shop.faults[0]


@pytest.mark.parametrize("rows", [(), ("tee,,,,,,5",)])
def test_export_without_products_is_a_one_line_error(tmp_path: Path, rows: tuple[str, ...]) -> None:
    with pytest.raises(Unavailable, match="no product"):
        demo._read_exports([export(tmp_path, *rows)])


def test_exports_with_the_same_name_are_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [export(tmp_path, "tee,Tee,,,,,5"), export(tmp_path / "other", "mug,Mug,,,,,5")]
    with pytest.raises(Unavailable, match="'shop': rename"):
        demo._read_exports(paths)


def test_file_in_another_encoding_is_a_one_line_error(tmp_path: Path) -> None:
    path = export(tmp_path)
    path.write_bytes(HEADER.encode() + "tee,Café,,,,,5\n".encode("latin-1"))
    with pytest.raises(Unavailable, match="not UTF-8 text"):
        demo._read_exports([path])


def test_built_in_requests_are_valid() -> None:
    for shop in built_in_stores():
        for request in shop.requests:
            parse_request(request, now=datetime.now(UTC))


@pytest.mark.parametrize("port", ["abc", "0", "99999", "-1"])
def test_invalid_port_is_a_one_line_error(port: str) -> None:
    with pytest.raises(Unavailable, match="PORT is"):
        choose_ports({"PORT": port}, any_free=True)

"""The reader of Shopify product exports."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from shared.domain import shopify
from shared.domain.html_text import html_to_text
from shared.domain.shopify import ProductExport

COLUMNS = (
    "Handle",
    "Title",
    "Body (HTML)",
    "Vendor",
    "Type",
    "Tags",
    "Option1 Name",
    "Option2 Name",
    "Variant Price",
    "Image Src",
    "SEO Title",
    "SEO Description",
)
STORES = Path(__file__).parents[4] / "shared" / "data" / "stores"


def row(handle: str, **cells: str) -> list[str]:
    named = {
        "Handle": handle,
        "Variant Price": cells.pop("price", ""),
        "Image Src": cells.pop("image", ""),
    } | {name.replace("_", " "): value for name, value in cells.items()}
    return [named.get(column, "") for column in COLUMNS]


def export(
    *rows: Sequence[str], columns: Sequence[str] = COLUMNS, start: str = ""
) -> ProductExport:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    return shopify.parse_export(io.StringIO(start + text.getvalue(), newline=""))


def faults(found: ProductExport) -> list[str]:
    return [str(fault) for fault in found.faults]


def test_rows_of_variants_and_images_merge_into_one_product() -> None:
    found = export(
        row(
            "tee",
            Title="A  Tee\u00a0Shirt ",
            Vendor="Loom",
            Type="Shirts",
            Tags="cotton, , summer",
            Option1_Name="Size",
            Option2_Name="Title",
            price="12.50",
            image="https://i/1.jpg",
            SEO_Title="Buy a tee",
            SEO_Description="Soft & light",
        ),
        row("mug", Title="Mug", price="4"),
        row("tee", price="9.00", image="https://i/2.jpg"),
        row("tee", image="https://i/1.jpg"),
    )
    assert found.faults == []
    tee, mug = found.products
    assert (tee.handle, tee.title, tee.vendor, tee.type) == ("tee", "A Tee Shirt", "Loom", "Shirts")
    assert tee.tags == ("cotton", "summer")
    assert (tee.status, mug.status) == ("", ""), "an export without that column"
    assert tee.options == ("Size",)
    assert tee.prices == (12.5, 9.0)
    assert tee.price_range == (9.0, 12.5)
    assert tee.images == ("https://i/1.jpg", "https://i/2.jpg")
    assert (tee.seo_title, tee.seo_description) == ("Buy a tee", "Soft & light")
    assert mug.price_range == (4.0, 4.0)


def test_prompt_data_leaves_out_empty_fields() -> None:
    (tee, mug, pin) = export(
        row("tee", Title="Tee", price="9"),
        row("mug", Title="Mug", Vendor="Kiln"),
        row("pin", Title="Pin", price="1"),
        row("tee", price="12.5"),
    ).products
    assert tee.as_prompt_data() == {"title": "Tee", "price": "9.00 to 12.50"}
    assert mug.as_prompt_data() == {"title": "Mug", "vendor": "Kiln"}
    assert pin.as_prompt_data() == {"title": "Pin", "price": "1.00"}


def test_prompt_data_has_seo_texts_and_images() -> None:
    (tee,) = export(
        row("tee", Title="Tee", image="https://i/1", SEO_Title="Buy a tee", SEO_Description="Soft"),
        row("tee", image="https://i/2"),
    ).products
    assert tee.as_prompt_data() == {
        "title": "Tee",
        "seoTitle": "Buy a tee",
        "seoDescription": "Soft",
        "images": ["https://i/1", "https://i/2"],
    }


def test_prompt_data_stays_under_the_limit_of_a_product() -> None:
    wide = "\U0001f375" * 20_000
    images = [row("tee", image=f"https://i/{number}") for number in range(20)]
    (tee,) = export(
        row("tee", Title="Tee", SEO_Title=wide, SEO_Description=wide, **{"Body (HTML)": wide}),
        row("tee", image="https://i/" + "x" * 2_000),
        *images,
    ).products
    data = tee.as_prompt_data()
    assert (len(data["seoTitle"]), len(data["seoDescription"])) == (200, 1_000)
    assert data["images"] == [f"https://i/{number}" for number in range(10)]
    assert len(orjson.dumps(data)) < 65_536


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Soft&nbsp;&amp; light</p><ul><li>one</li><li>two</li></ul>", "Soft & light one two"),
        ("<style>p {color: red}</style><script>alert(1)</script>Plain<br>text", "Plain text"),
        ("5 < 6 and 7 > 6", "5 < 6 and 7 > 6"),
        ("", ""),
    ],
)
def test_html_becomes_plain_text(html: str, text: str) -> None:
    assert html_to_text(html) == text


def test_long_description_is_cut() -> None:
    body = {"Body (HTML)": "<p>" + "word " * 5_000 + "</p>"}
    (product,) = export(row("tee", Title="Tee", **body)).products
    assert 3_900 < len(product.description) <= 4_000


def test_broken_rows_are_named_and_the_others_are_read() -> None:
    found = export(
        row("tee", Title="Tee", price="9"),
        row("", Title="Nobody's", price="9"),
        row("tee", price="cheap"),
        row("mug", price="4"),
        [*row("pin", Title="Pin"), "one too many"],
        row("cap", Title="Cap")[:3],
        row("bag", Title="Bag\0"),
        row("hat", Title="Hat", price="7"),
    )
    assert [(product.handle, product.prices) for product in found.products] == [
        ("tee", (9.0,)),
        ("hat", (7.0,)),
    ]
    assert faults(found) == [
        "line 3: has no Handle",
        "line 4: has the price 'cheap', which is no number",
        "line 5: is the first of 'mug' and has no Title",
        "line 6: has 13 columns, the header 12",
        "line 7: has 3 columns, the header 12",
        "line 8: contains the character U+0000",
    ]


@pytest.mark.parametrize("price", ["nan", "inf", "-1", "1,50", "1e3", "$5", "٣", "9" * 400])
def test_only_plain_numbers_are_prices(price: str) -> None:
    found = export(row("tee", Title="Tee", price=price))
    assert found.products == []
    assert "is no number" in faults(found)[0]


def test_rows_after_a_broken_first_row_name_that_row() -> None:
    found = export(
        row("tee", Title="Tee", price="x"), row("tee", price="2"), row("mug", Title="Mug")
    )
    assert [product.handle for product in found.products] == ["mug"]
    assert faults(found)[1] == "line 3: belongs to 'tee', whose first row (line 2) cannot be used"


def test_lines_are_counted_through_cells_with_line_breaks() -> None:
    found = export(row("tee", Title="Tee", **{"Body (HTML)": "one\ntwo\r\nthree"}), row("mug"))
    assert found.products[0].description == "one two three"
    assert faults(found) == ["line 5: is the first of 'mug' and has no Title"]


def test_empty_lines_and_byte_order_mark_are_ignored() -> None:
    found = export(row("tee", Title="Tee"), [], row("mug", Title="Mug"), start="\ufeff")
    assert [product.handle for product in found.products] == ["tee", "mug"]
    assert found.faults == []


def test_unreadable_cell_affects_its_row_only() -> None:
    found = export(
        row("tee", Title="Tee"), row("mug", Title="x" * 1_000_001), row("hat", Title="Hat")
    )
    assert [(product.handle, product.line) for product in found.products] == [
        ("tee", 2),
        ("hat", 4),
    ]
    assert faults(found) == ["line 3: field larger than field limit (1000000)"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [],
            "missing columns 'Handle', 'Title', 'Body (HTML)', 'Vendor', 'Type', 'Tags', 'Variant"
            " Price'",
        ),
        (
            ["Handle,Title,Email\n"],
            "missing columns 'Body (HTML)', 'Vendor', 'Type', 'Tags', 'Variant Price'",
        ),
        (
            [",".join(COLUMNS).replace("Variant Price", "Price") + "\n"],
            "missing column 'Variant Price'",
        ),
        ([";".join(COLUMNS) + "\n", "tea;Tea, green\n"], "separated by ';'"),
        (["\t".join(COLUMNS) + "\n"], r"separated by '\t'"),
        (['"' + "x" * 1_000_001 + '"\n'], "field larger"),
    ],
)
def test_file_that_is_no_export_is_refused(lines: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match="no Shopify product export: ") as refusal:
        shopify.parse_export(lines)
    assert reason in str(refusal.value)


@pytest.mark.skipif(
    not STORES.is_dir(), reason="the real shops' exports are not beside this checkout"
)
def test_real_exports_are_read_without_faults() -> None:
    products = []
    for path in sorted(STORES.glob("*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as lines:
            found = shopify.parse_export(lines)
        assert found.faults == [], path.name
        handles = [product.handle for product in found.products]
        assert len(set(handles)) == len(handles), path.name
        products += found.products
    assert len(products) == 1_325
    assert all(product.title and "<" not in product.title for product in products)

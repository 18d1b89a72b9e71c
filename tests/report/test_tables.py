"""Tables of the book: numbers stand below each other, and read as the paper prints them."""

import math

import pandas as pd
import pytest

from heterofl_core.printing import fixed, magnitude, signed
from heterofl_core.report import tables

ROW = pd.DataFrame({"Mix": ["a-e"], "Accuracy": ["94.05"]})


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (999, "999"), (1000, "1.0 K"), (98_922, "98.9 K"), (1_556_874, "1.6 M"), (1.368e9, "1.4 B")],
)
def test_counts_read_as_the_paper_prints_them(value: float, text: str) -> None:
    assert magnitude(value) == text


def test_a_difference_has_a_sign_and_a_true_minus() -> None:
    values = (1.256, -0.5, 0, -0.001, math.nan)
    assert [signed(value) for value in values] == ["+1.26", "−0.50", "+0.00", "+0.00", "–"]


def test_a_result_has_two_decimals_or_is_a_dash() -> None:
    assert [fixed(value) for value in (94.046, 3, math.nan, None)] == ["94.05", "3.00", "–", "–"]


def test_numbers_stand_at_the_right_and_words_at_the_left() -> None:
    page = tables.aligned(ROW, text=["Mix"]).to_html(table_uuid="t")
    assert "#T_t th.col1 {\n  text-align: right;" in page
    assert "#T_t_row0_col1 {\n  text-align: right;" in page
    assert "#T_t th.col0 {\n  text-align: left;" in page
    assert "row0_col0" not in page.split("</style>")[0]


def test_a_table_has_no_row_numbers_and_may_be_searched() -> None:
    page = tables.searchable(tables.printed(ROW)).to_html()
    assert 'class="dataframe searchable"' in page
    assert "row_heading" not in page


def test_a_run_is_linked_from_a_page_of_the_report() -> None:
    assert tables.run_link("mnist_s0", "94.05") == '<a href="../runs/mnist_s0.html">94.05</a>'

"""Table 1 needs no data: its figures are exact."""

import pytest
import table1


@pytest.mark.parametrize(
    ("network", "head", "count"),
    [
        ("VGG11-BN", "unmodified", 132_868_840),
        ("VGG11-BN", "ours", 12_432_872),
        ("EfficientNet-B0", "unmodified", 4_075_441),
        ("EfficientNet-B0", "ours", 4_752_817),
    ],
)
def test_counts(network, head, count):
    name, classes = table1.NETWORKS[network]
    assert table1.parameters(name, classes, table1.HEADS[head]) == count


@pytest.mark.slow
def test_the_table_shows_where_the_paper_differs():
    rows = {tuple(row.split(" | ")[:2]): row for row in table1.table().splitlines() if "classes |" in row}
    assert len(rows) == 6
    far = [key for key, row in rows.items() if not row.endswith("| 0.00 |")]
    assert far == [("| DenseNet-121, 1000 classes", "ours")]

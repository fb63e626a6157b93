"""The script in docs/datasets/fashion_mnist.md, on the real files of Debian's package."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from topgap_jax.data.sources import load_source

ROOT = Path(__file__).parents[2]
FILES = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not FILES.exists(), reason="needs: apt-get install dataset-fashion-mnist")
def test_the_script_in_the_docs_makes_a_source(tmp_path):
    page = (ROOT / "docs" / "datasets" / "fashion_mnist.md").read_text()
    script = tmp_path / "make.py"
    script.write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    command = [sys.executable, str(script)]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    for split, per_class in (("train", 5500), ("validation", 500), ("test", 1000)):
        source = load_source(f"npz:{tmp_path}/data/fashion_mnist", split)
        assert source.image_shape == (28, 28, 1) and source.class_names[9] == "Ankle boot"
        np.testing.assert_array_equal(np.bincount(source.labels), [per_class] * 10)
    assert source[0]["label"] == 9 and source[0]["image"].mean() > 20  # the test begins with an ankle boot
    assert source[0]["image"][:3].max() == 0  # nothing above the boot

"""Pointing of the blind rules on an image whose answers are known by hand."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.experiments import blind_rules


def test_rules_point_where_they_should():
    """48 x 48 pixels, patches of 16: dark at the top left, the structure there."""
    pixels = np.full((48, 48, 3), 200, np.uint8)
    pixels[:16, :16] = 60
    mask = np.zeros((48, 48), bool)
    mask[:16, :16] = True
    found = blind_rules.points(pixels, mask, 0)
    assert found["darkest"] == 1
    assert found["center"] == 0
    assert found["area"] == pytest.approx(1 / 9)
    # Twenty draws among nine patches: within four standard errors of a ninth.
    assert abs(found["random"] - 1 / 9) < 4 * np.sqrt(1 / 9 * 8 / 9 / 20)
    center = blind_rules.points(pixels, np.roll(mask, (16, 16), (0, 1)), 0)
    assert (center["center"], center["darkest"]) == (1, 0)


def test_a_table_by_the_command(tmp_path, capsys):
    lines = ["image,patient,grade,mask"]
    for i in range(4):
        pixels = np.full((300, 200, 3), 200, np.uint8)
        pixels[:100] = 60
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        mask = np.zeros((300, 200), np.uint8)
        mask[:100] = 255 * (i > 0)  # the first mask is empty
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
        lines.append(f"{i}.png,p{i},{i % 2},{i}_mask.png")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    blind_rules.main([f"--table={tmp_path / 't.csv'}", "--classes=0,1"])
    head, line = capsys.readouterr().out.splitlines()
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["| images"] == "| 3"
    assert cells["darkest"] == "100.0"
    # 224 x 144 pixels: 14 rows of patches, of which a third, rounded, is the structure.
    assert float(cells["area |"].rstrip(" |")) == pytest.approx(100 / 3, abs=1)

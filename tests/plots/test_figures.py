import subprocess
import sys

import matplotlib
import pytest

from volo.plots.figures import axes_at, new_figure, save, shorten, style


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("maple_tree", 10, "maple_tree"),
        ("African_hunting_dog", 12, "African_…dog"),
        ("two\nlines\tand  gaps", 30, "two lines and gaps"),
        ("狼犬狼犬狼犬", 12, "狼犬狼犬狼犬"),
        ("bad\udce9name", 20, "bad name"),
        ("abcdef", 3, "ab…"),
    ],
)
def test_long_names_lose_their_middle(name, limit, expected):
    assert shorten(name, limit) == expected


@pytest.mark.parametrize("limit", [3, 5, 9])
def test_wide_letters_count_for_two(limit):
    short = shorten("狼犬狼犬狼犬狼犬", limit)
    assert "…" in short and 2 * (len(short) - 1) + 1 <= limit


def test_style_leaves_no_trace():
    before = dict(matplotlib.rcParams)
    with style():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert dict(matplotlib.rcParams) == before


def test_a_figure_is_saved_whole_or_not_at_all(tmp_path):
    with style():
        figure = new_figure(2, 2, layout=None)
        axes_at(figure, 0.2, 0.2, 1, 1).set_title("$broken \\frac{")
        path = save(figure, tmp_path / "new" / "figure.png")
        before = path.read_bytes()
        figure.savefig = failing
        with pytest.raises(OSError, match="full"):
            save(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def failing(partial, **_):
    partial.write(b"half")
    raise OSError("disk full")


def test_analysis_needs_neither_pyplot_nor_torch_nor_ray():
    code = (
        "import sys, volo.analysis.predictions, volo.analysis.calibration, volo.analysis.report;"
        "print({'matplotlib.pyplot', 'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from volo.analysis.confusion import ConfusedPair
from volo.analysis.evaluate import ClassScore
from volo.analysis.report import Explained, FileToSee, Report, write_report
from volo.plots.curves import save_learning_curves
from volo.plots.figures import new_figure, save, style
from volo.plots.page import Figure

METRICS = {"split": "test", "num_samples": 10000, "loss": 0.73691, "acc1": 0.8524, "acc5": 0.972, "ece": 0.2137}
VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.tags, self.open, self.text = path.read_text(encoding="utf-8"), [], [], ""
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def history(num_epochs=3) -> list[dict]:
    records = [{"kind": "note", "step": 0, "text": "started"}]
    for epoch in range(1, num_epochs + 1):
        step = 10 * epoch
        records += [
            {"kind": "step", "step": step - 5, "train/loss": 3 / epoch, "lr": 1e-3, "images_per_s": 1000.0},
            {"kind": "step", "step": step, "train/loss": 2 / epoch, "lr": 1e-3 / epoch},
            {"kind": "epoch", "step": step, "epoch": epoch, "train/loss": 2.5 / epoch, "val/loss": 2 / epoch,
             "val/acc1": 0.2 * epoch, "val/acc5": 0.3 * epoch},
        ]  # fmt: skip
    return records


def picture(folder: Path, name: str = "confusion.png", width: float = 3) -> Path:
    with style():
        figure = new_figure(width, 2)
        figure.subplots().plot([0, 1])
        return save(figure, folder / name)


def explained(true="cat", predicted="dog", size=32) -> Explained:
    pixels = np.zeros((size, size, 3), np.uint8)
    return Explained(pixels, {"Grad-CAM": pixels, "Occlusion": pixels}, true, [(predicted, 0.7), (true, 0.25)])


def full_report(folder: Path, **changes) -> Report:
    values = dict(
        title="quickstart", checkpoint="/runs/quickstart/best", split="test", metrics=METRICS,
        pairs=[ConfusedPair("cat", "dog", 12, 0.12)], history=history(),
        classes={"cat": ClassScore(20, 10, 10), "dog": ClassScore(40, 36, 36)}
        | dict.fromkeys(("emu", "fox", "owl", "yak"), ClassScore(5, 2, 2)),
        settings={"recipe": None, "model": {"variant": "nano", "stem_channels": [16, 32]}},
        environment={"torch": "2.11", "host": {"cores": 2}},
        figures=[Figure("Confusion", picture(folder), "Rows are the truth.", "A matrix")], notes=["A caveat."],
    )  # fmt: skip
    return Report(**values | changes)


def test_page_holds_everything_it_was_given(tmp_path):
    page = Page(write_report(tmp_path, full_report(tmp_path)))
    for text in (
        "quickstart", "/runs/quickstart/best", "85.24%", "97.20%", "0.7369", "10,000", "21.37%", "A caveat.",
        "Rows are the truth.", "12.0%", "90.0%", "stem_channels", "16, 32", "cores", "60.00%, epoch 3",
        "1,000 images/s",
    ):  # fmt: skip
        assert text in page.text
    assert page.attributes("html") == [{"lang": "en"}]
    assert len(page.attributes("details")) == 2 and all("open" not in attrs for attrs in page.attributes("details"))


def test_page_stands_alone(tmp_path):
    page = Page(write_report(tmp_path, full_report(tmp_path)))
    images = page.attributes("img")
    assert len(images) == 2  # learning curves, confusion
    assert all(attrs["src"].startswith("data:image/png;base64,") and attrs["alt"] for attrs in images)
    assert not page.attributes("script") and not page.attributes("link")
    assert "http://" not in page.source and "https://" not in page.source and "url(" not in page.source
    assert all(attrs["href"].startswith("#") for attrs in page.attributes("a"))


def test_every_link_leads_to_a_section(tmp_path):
    page = Page(write_report(tmp_path, full_report(tmp_path)))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.attributes("a")} <= set(ids)


def test_explanations_stand_beside_their_image_with_the_likeliest_classes(tmp_path):
    examples, methods = [explained(), explained("owl", "owl", size=200)], ["Grad-CAM at x", "occlusion"]
    page = Page(write_report(tmp_path, full_report(tmp_path, explained=examples, methods=methods)))
    shown = page.attributes("img")[2:]
    assert [attrs["alt"].split(" of ")[0] for attrs in shown] == ["Input", "Grad-CAM", "Occlusion"] * 2
    assert [attrs.get("class") for attrs in shown] == ["crisp"] * 3 + [None] * 3
    assert "wrong: it is cat" in page.text and "Grad-CAM at x, and by occlusion" in page.text
    assert "70.0%" in page.text and "25.0%" in page.text


def test_scores_of_explanations_stand_above_their_baselines(tmp_path):
    shares = {"in_mask": 0.123, "in_box": 0.456, "in_mask_off_centre": None}
    keys = ("random", "centre", "occlusion_shuffled", "gradcam_shuffled", "occlusion", "gradcam")
    page = Page(write_report(tmp_path, full_report(tmp_path, localization=dict.fromkeys(keys, shares))))
    shuffled = ("Grad-CAM, shuffled weights", "Occlusion, shuffled weights")
    names = ("Grad-CAM", "Occlusion", *shuffled, "Center of the image", "Random point")
    places = [page.source.index(f'<th scope="row">{name}</th>') for name in names]
    assert places == sorted(places)
    assert page.text.count("12.3%") == 6 and page.text.count("45.6%") == 6


def test_top_five_of_five_classes_is_no_news(tmp_path):
    few = dict.fromkeys(("cat", "dog", "emu"), ClassScore(20, 10, 10))
    assert "Top-5 accuracy" not in Page(write_report(tmp_path, full_report(tmp_path, classes=few))).text
    assert "Top-5 accuracy" in Page(write_report(tmp_path, full_report(tmp_path))).text


def test_a_confused_pair_shows_some_of_its_images(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    files = [FileToSee(pixels, f"cat/{number}.jpg", "cat", "dog", 0.9) for number in range(3)]
    page = Page(write_report(tmp_path, full_report(tmp_path, examples=[files])))
    shown = [attrs for attrs in page.attributes("img") if attrs["alt"] == "cat taken for dog"]
    assert [attrs["title"] for attrs in shown] == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg"]


def test_classes_without_an_image_are_named_and_have_no_accuracy(tmp_path):
    classes = {"cat": ClassScore(20, 10, 10), "owl": ClassScore(0, 0, 0), "yak": ClassScore(5, 0, 0)}
    page = Page(write_report(tmp_path, full_report(tmp_path, classes=classes)))
    assert "Classes without an image here: owl." in page.text and page.text.count("never predicted") == 1
    assert '<th scope="row">owl</th>' not in page.source
    assert '<th scope="row">yak</th><td class="number">5</td>' in page.source


def test_html_in_names_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    page = Page(
        write_report(
            tmp_path,
            full_report(
                tmp_path, title=evil, checkpoint=evil, split=evil, notes=[evil],
                pairs=[(evil, '"><img src=x>', 3, 0.5)],
                classes={evil: ClassScore(10, 1, 1), evil + "2": ClassScore(0, 0, 0)},
                settings={evil: {evil: evil}}, environment={evil: evil}, metrics=METRICS | {evil: evil},
                figures=[Figure(evil, picture(tmp_path), evil, '" onerror="alert(1)')],
                explained=[explained(evil, evil)], methods=[evil],
            ),
        )
    )  # fmt: skip
    assert not page.attributes("script") and len(page.attributes("img")) == 5
    assert page.attributes("img")[4]["alt"] == f"Occlusion of an image of {evil}"
    assert page.attributes("img")[1]["alt"] == '" onerror="alert(1)' and "onerror" not in page.attributes("img")[1]
    assert page.text.count(evil) >= 10


def test_page_with_the_least_is_still_a_page(tmp_path):
    page = Page(write_report(tmp_path / "new", Report("run", "best", "test", {"acc1": 0.5})))
    assert "50.00%" in page.text
    assert not page.attributes("img") and not page.attributes("table") and not page.attributes("aside")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_names_that_are_no_unicode_do_not_stop_the_page(tmp_path):
    classes = {"caf\udce9": ClassScore(2, 1, 1), "狼犬": ClassScore(2, 2, 2)}
    page = Page(write_report(tmp_path, full_report(tmp_path, classes=classes)))
    assert "\\udce9" in page.text and "狼犬" in page.text


def test_many_classes_show_the_worst_and_the_best(tmp_path):
    classes = {f"class-{i:02d}": ClassScore(50, i, i) for i in range(50)}
    page = Page(write_report(tmp_path, full_report(tmp_path, classes=classes)))
    assert "Lowest accuracy" in page.text and "Highest accuracy" in page.text
    assert [i for i in range(50) if f"class-{i:02d}" in page.text] == [*range(10), *range(40, 50)]


def test_small_pictures_that_follow_each_other_share_a_row(tmp_path):
    small, large = picture(tmp_path), picture(tmp_path, "large.png", width=12)
    figures = [Figure(str(n), path) for n, path in enumerate([small, small, small, large, small])]
    page = Page(write_report(tmp_path, full_report(tmp_path, figures=figures, history=[])))
    cards = [attrs["class"].split() for attrs in page.attributes("section") if attrs["id"].startswith("figure")]
    assert ["wide" in card for card in cards] == [False, False, True, True, True]


def test_learning_curves_already_among_the_figures_are_not_drawn_again(tmp_path):
    path = save_learning_curves(history(), tmp_path)
    page = Page(write_report(tmp_path, full_report(tmp_path, figures=[Figure("Curves", path)])))
    assert len(page.attributes("img")) == 1


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path):
    path = write_report(tmp_path, full_report(tmp_path))
    before = path.read_bytes()
    (tmp_path / "broken.png").write_text("no picture")
    for missing in ("broken.png", "absent.png"):
        with pytest.raises(ValueError, match=f"must be a PNG file.*{missing}"):
            write_report(tmp_path, full_report(tmp_path, figures=[Figure("x", tmp_path / missing)]))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_numpy_numbers_read_like_plain_ones(tmp_path):
    metrics = {"acc1": np.float32(0.5), "num_samples": np.int64(1234), "brier": np.float64(0.25)}
    text = Page(write_report(tmp_path, Report("run", "best", "test", metrics))).text
    assert "50.00%" in text and "1,234" in text and "0.25" in text


@pytest.mark.parametrize(
    "records",
    [
        history(),
        history(1),
        [{"step": 1, "train/loss": 2.0}],
        [{"step": 5, "val/acc1": 0.5}],
        [{"step": 5, "lr": 1e-3}, {"kind": "note", "text": "no step"}],
        [{"step": 1, "train/loss": float("nan")}, {"step": 2, "train/loss": 1.0, "val/loss": None}],
        [{"step": s, "train/loss": 1 / s} for s in range(1, 20_000, 7)],
    ],
)
def test_learning_curves_draw_what_there_is(tmp_path, records):
    path = save_learning_curves(records, tmp_path)
    assert path == tmp_path / "learning_curves.png" and path.stat().st_size > 0


@pytest.mark.parametrize("records", [[], [{"kind": "note", "step": 0, "text": "x"}], [{"train/loss": 1.0}]])
def test_a_history_without_points_has_no_curves(tmp_path, records):
    (tmp_path / "learning_curves.png").write_bytes(b"of an earlier run")
    assert save_learning_curves(records, tmp_path) is None
    assert not (tmp_path / "learning_curves.png").exists()

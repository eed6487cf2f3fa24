"""Token labels and distillation: their loss by hand, their boxes, and runs that learn from a teacher."""

import numpy as np
import pytest
import torch

import volo
from tests.model.forms import FORMS
from tests.models import save_model
from tests.training.runs import losses, same, small_run, train, weights
from volo.data.datasets import open_split
from volo.errors import InputError
from volo.model.token_labels import Box, DenseLogits, draw_box, mix_tokens
from volo.runs import checkpoint
from volo.settings.config import build_settings
from volo.settings.teaching import TeachingSettings
from volo.training.objective import Labels, step_generator, token_label_loss
from volo.training.teacher import Teacher, digest_of

SMALL = dict(stem_dim=8, layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), patch_size=4)


def test_mixing_twice_is_no_mixing_and_the_box_holds_the_partners_tokens():
    x = torch.arange(4.0)[:, None, None, None].expand(4, 6, 6, 2)
    box = Box(0.0, 0.5, 0.5, 1.0)
    mixed = mix_tokens(x, box)
    assert (mixed[0, :3, 3:] == 3).all() and (mixed[0, 3:] == 0).all() and (mixed[0, :, :3] == 0).all()
    assert torch.equal(mix_tokens(mixed, box), x)
    assert (mixed[0] == 3).float().mean() == pytest.approx(box.area)


def test_boxes_depend_on_seed_and_step_alone_and_lie_on_the_grid():
    boxes = [draw_box(step_generator(0, step), (4, 4)) for step in range(200)]
    assert boxes[7] == draw_box(step_generator(0, 7), (4, 4)) != draw_box(step_generator(1, 7), (4, 4))
    edges = np.array(boxes)
    assert (edges * 4 == np.round(edges * 4)).all() and (edges >= 0).all() and (edges <= 1).all()
    assert len({*boxes}) > 50


def test_the_loss_is_the_pooled_one_and_half_the_patches_mean():
    torch.manual_seed(0)
    dense = DenseLogits(torch.randn(2, 3), torch.randn(2, 2, 2, 3))
    targets, patches = torch.randn(2, 3).softmax(-1), torch.randn(2, 2, 2, 3).softmax(-1)
    box = Box(0.0, 0.0, 0.5, 0.5)
    mixed = 0.75 * targets + 0.25 * targets.flip(0)
    pooled = -(mixed * dense.logits.log_softmax(-1)).sum()
    of_patches = -(patches * dense.patch_logits.log_softmax(-1)).sum(-1).mean(dim=(1, 2)).sum()
    assert torch.allclose(token_label_loss(dense, targets, patches, box), pooled + 0.5 * of_patches)


def test_patch_logits_of_mixed_tokens_lie_where_their_images_are():
    torch.manual_seed(0)
    model = volo.create_model("volo_d1", num_classes=3, img_size=32, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    whole = Box(0.0, 0.0, 1.0, 1.0)
    plain, mixed = model.eval().dense(images), model.dense(images, whole)
    assert torch.allclose(mixed.logits, plain.logits.flip(0), atol=1e-5)
    assert torch.allclose(mixed.patch_logits, plain.patch_logits, atol=1e-5)
    expected = plain.logits + 0.5 * plain.patch_logits.flatten(1, 2).amax(1)
    assert torch.allclose(model(images), expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_say_what_it_sees_in_each_patch(form):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=4, **form).eval()
    images = torch.randn(2, 3, 32, 32)
    dense = model.dense(images)
    assert torch.allclose(dense.logits, model(images), atol=1e-6)
    assert dense.patch_logits.shape[0] == 2 and dense.patch_logits.shape[-1] == 4 and dense.patch_logits.ndim == 4


def test_a_teacher_answers_in_the_students_classes_and_normalisation(tmp_path, folder):
    taught = small_run(tmp_path, folder, optim=dict(epochs=1), run=dict(run_name="teacher"))
    run_dir = train(taught)
    path = checkpoint.find(run_dir)
    names = tuple(reversed(checkpoint.load_model(path)[1].class_names))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    student = build_settings(taught.to_dict(), {"data": dict(mean=mean, std=std)}).resolved()
    pixels = open_split(taught.resolved().data, "train").pixels(np.arange(3))
    images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]
    images = images / torch.tensor(std)[:, None, None]
    teacher = Teacher(path, student, names, torch.device("cpu"))
    classifier = volo.load(run_dir)
    for image, probabilities in zip(pixels, teacher.probabilities(images), strict=True):
        expected = dict(classifier.predict(image))
        assert [expected[name] for name in names] == pytest.approx(probabilities.tolist(), abs=1e-4)
    assert teacher.patch_probabilities(images, (4, 4)).sum(-1) == pytest.approx(torch.ones(3, 4, 4), abs=1e-5)


def test_a_run_learns_from_token_labels_resumes_exactly_and_needs_its_teacher(tmp_path, folder):
    teacher = train(small_run(tmp_path, folder, optim=dict(epochs=1), run=dict(run_name="teacher")))
    teaching = dict(teacher=str(teacher), token_labels=True, mix_token=True, distillation=0.5)

    def student(name: str, **optim):
        base = small_run(tmp_path, folder, optim=optim, run=dict(run_name=name)).to_dict()
        return build_settings({**base, "model": dict(variant="volo_d1", **SMALL), "augment": {}, "teaching": teaching})

    whole = train(student("whole"))
    train(student("parts", max_steps=5))
    parts = train(student("parts"))
    assert same(weights(whole), weights(parts))
    assert all(np.isfinite(loss) for loss in losses(whole).values())

    with pytest.raises(InputError, match="a checkpoint must exist"):
        train(build_settings(student("other").to_dict(), {"teaching": dict(teacher=str(tmp_path / "none"))}))


def test_a_teacher_of_other_classes_is_refused(tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(epochs=1), run=dict(run_name="teacher")).resolved()
    path = checkpoint.find(train(settings))
    with pytest.raises(InputError, match=r"a teacher must know the same classes, .* not in both: 'bird', 'dog'"):
        Teacher(path, settings, ("cat", "bird"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (dict(teaching=dict(teacher="x")), "teacher has no effect without distillation or token_labels"),
        (dict(teaching=dict(distillation=0.5)), "distillation and token_labels need a teacher"),
        (dict(teaching=dict(teacher="x", distillation=0.5, mix_token=True)), "no effect without token_labels"),
        (dict(teaching=dict(teacher="x", token_labels=True)), "token_labels need an auxiliary head"),
        (
            dict(
                model=dict(variant="volo_d1"), augment=dict(mixup_alpha=1),
                teaching=dict(teacher="x", token_labels=True, mix_token=True),
            ),
            "mix_token mixes patches itself",
        ),
    ],
)  # fmt: skip
def test_teaching_that_takes_effect_nowhere_is_refused(values, rule):
    with pytest.raises(InputError, match=rule):
        build_settings(values)


def test_distillation_mixes_the_teachers_probabilities_into_the_labels(tmp_path):
    path = save_model(tmp_path, ("cat", "dog"))
    settings = build_settings({"data": dict(dataset="imagefolder", data_dir=str(tmp_path))}).resolved()
    teacher = Teacher(path, settings, ("cat", "dog"), torch.device("cpu"))
    images, targets = torch.randn(3, 3, 32, 32), torch.eye(2)[[0, 1, 1]]
    labels = Labels(TeachingSettings(teacher=str(path), distillation=0.25), teacher)
    expected = 0.75 * targets + 0.25 * teacher.probabilities(images)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    by_hand = -(expected * model(images).log_softmax(-1)).sum()
    assert torch.allclose(labels(model, images, targets, step=0), by_hand, atol=1e-5)
    assert Labels(TeachingSettings(), None).softened(images, targets) is targets


def test_a_teacher_answers_in_the_students_order_of_three_classes(tmp_path):
    """Of two classes every other order is its own inverse."""
    names, students = ("ant", "bee", "cow"), ("bee", "cow", "ant")
    path = save_model(tmp_path, names)
    settings = build_settings({"data": dict(dataset="imagefolder", data_dir=str(tmp_path))}).resolved()
    own, theirs = (Teacher(path, settings, order, torch.device("cpu")) for order in (names, students))
    images = torch.randn(4, 3, 32, 32)
    for answer in (lambda teacher: teacher.probabilities(images), lambda t: t.patch_probabilities(images, (4, 4))):
        by_name = dict(zip(names, answer(own).unbind(-1), strict=True))
        for name, column in zip(students, answer(theirs).unbind(-1), strict=True):
            assert torch.equal(column, by_name[name])
        assert not torch.equal(by_name["bee"], by_name["cow"])


def test_a_run_resumes_with_the_weights_that_taught_it_wherever_they_lie_now(tmp_path, folder):
    """The teacher's run went on meanwhile: its best checkpoint is another one."""
    taught = small_run(tmp_path, folder, run=dict(run_name="teacher"), optim=dict(epochs=2))
    teacher = train(taught)
    first, second = sorted((teacher / "checkpoints").iterdir())
    checkpoint.point(teacher, "best", first)

    def student(name: str, path=teacher, **optim):
        teaching = dict(teacher=str(path), distillation=0.5)
        return small_run(tmp_path, folder, teaching=teaching, run=dict(run_name=name), optim=optim)

    whole = train(student("whole"))
    assert checkpoint.load_model(checkpoint.newest(whole))[1].teacher_hash == digest_of(first) != digest_of(second)
    train(student("parts", max_steps=5))
    checkpoint.point(teacher, "best", second)
    remedy = f"got other weights in {second}; name what taught it with --teacher, now {first}, or use"
    with pytest.raises(InputError, match=f"a run must resume with the teacher it started with, {remedy}"):
        train(student("parts"))
    first.rename(tmp_path / "elsewhere")
    assert same(weights(whole), weights(train(student("parts", tmp_path / "elsewhere"))))

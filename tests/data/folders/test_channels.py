"""Images of other channels than red, green and blue: gray, the bands of a file, the frames of a TIFF."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from volo.data.crops import Cut, resized
from volo.data.decoded.cache import cached
from volo.data.epoch import NUM_CROP_DRAWS
from volo.data.folders.image import SMALL, Unreadable, fit_image, read_image
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.readers import read_images

SIZE, WIDE = 16, 24


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def stack(num_frames: int, height: int = SIZE, width: int = SIZE) -> list[np.ndarray]:
    return [levels(height, width, seed=number) for number in range(num_frames)]


def tiff(frames: list[np.ndarray], **options) -> io.BytesIO:
    first, *others = (Image.fromarray(frame) for frame in frames)
    return saved(first, "TIFF", save_all=True, append_images=others, **options)


def saved(image: Image.Image, form: str, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer


def read(file, in_chans: int, size: int = SIZE, resize: str = "crop") -> np.ndarray:
    found = read_image(file, size, resize, in_chans=in_chans)
    assert (found.shape, found.dtype) == ((size, size, in_chans), np.uint8)
    return found


def test_the_gray_of_a_gray_image_is_the_same_to_the_bit():
    gray = np.arange(256, dtype=np.uint8).reshape(SIZE, SIZE)
    for file in (
        saved(Image.fromarray(gray), "PNG"),
        saved(Image.fromarray(gray), "BMP"),
        saved(Image.fromarray(gray.astype(np.uint16) * 257), "PNG"),
        saved(Image.fromarray(gray.astype(np.float32) / 255), "TIFF"),
        saved(Image.fromarray(np.dstack([gray] * 3)), "PNG"),
    ):
        assert np.array_equal(read(file, 1)[..., 0], gray)
    bits = Image.fromarray(gray > 99)
    assert np.array_equal(read(saved(bits, "PNG"), 1)[..., 0], np.where(gray > 99, 255, 0))


def test_the_gray_of_a_color_image_is_its_luma_on_white():
    colors = Image.fromarray(levels(SIZE, SIZE, 3))
    assert np.array_equal(read(saved(colors, "PNG"), 1)[..., 0], np.asarray(colors.convert("L")))
    assert (read(saved(Image.new("RGBA", (SIZE, SIZE), (9, 9, 9, 0)), "PNG"), 1) == 255).all()


@pytest.mark.parametrize("num_frames", [2, 4, 5, 13])
def test_the_frames_of_a_tiff_are_channels_in_their_order(num_frames, tmp_path):
    frames = stack(num_frames)
    (tmp_path / "a.tif").write_bytes(tiff(frames).getvalue())
    for file in (tmp_path / "a.tif", tiff(frames), tiff(frames, compression="tiff_deflate")):
        assert np.array_equal(read(file, num_frames), np.dstack(frames))
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(fit_image(image, SIZE, in_chans=num_frames), np.dstack(frames))
        assert np.array_equal(fit_image(image, SIZE, in_chans=num_frames), np.dstack(frames))


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("RGBA", "TIFF"), ("CMYK", "TIFF"), ("LA", "PNG")])
def test_the_bands_of_an_image_are_channels_as_they_are(mode, form):
    """Alpha is one, and hides nothing."""
    bands = levels(SIZE, SIZE, len(mode))
    image = Image.merge(mode, [Image.fromarray(np.ascontiguousarray(bands[..., n])) for n in range(len(mode))])
    assert np.array_equal(read(saved(image, form), len(mode)), bands)


def test_the_bands_of_all_frames_follow_each_other():
    frames = [levels(SIZE, SIZE, 3, seed=seed) for seed in range(2)]
    assert np.array_equal(read(tiff(frames), 6), np.dstack(frames))


def test_a_palette_stands_for_its_colors():
    image = Image.fromarray(levels(SIZE, SIZE, 3)).quantize(8)
    image.info["transparency"] = 0
    assert np.array_equal(read(saved(image, "PNG"), 4), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize("scaled", [lambda a: a.astype(np.uint16) * 257, lambda a: a.astype(np.float32) / 255])
def test_frames_of_more_than_8_bits_are_scaled_together(scaled):
    """A dark channel stays as dark beside a bright one, however its values alone would be read."""
    frames = stack(5)
    frames[2] //= 100
    assert np.array_equal(read(tiff([scaled(frame) for frame in frames]), 5), np.dstack(frames))


@pytest.mark.parametrize(
    ("frames", "in_chans", "reason"),
    [
        (stack(5), 4, "an image must have 4 channels, got 5 frames; set --in-chans to the number that the files hold"),
        (stack(5), 6, "got 5 of mode L in 5 frames;"),
        (stack(1), 2, "got 1 of mode L;"),
        ([levels(SIZE, SIZE, 3)], 5, "got 3 of mode RGB;"),
        ([levels(SIZE, SIZE, 3)] * 2, 5, "got 6 of mode RGB in 2 frames;"),
        ([*stack(1), levels(SIZE, WIDE)], 2, "size, mode and range, got L of 16x16 and L of 24x16; write them alike"),
        ([*stack(1), levels(SIZE, SIZE).astype(np.uint16) * 257], 2, "got L of 16x16 and I;16 of 16x16;"),
        ([frame.astype(np.uint16) for frame in stack(2)], 2, "use more than 12 of these 16 bits, got 0 to 255 in"),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_of_other_channels_cannot_be_read_and_says_why(frames, in_chans, reason):
    with pytest.raises(Unreadable) as refused:
        read_image(tiff(frames), SIZE, in_chans=in_chans)
    assert reason in refused.value.reason


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_stack_that_is_cut_short_cannot_be_read():
    whole = tiff(stack(5)).getvalue()
    assert read(io.BytesIO(whole), 5).any()
    with pytest.raises(Unreadable, match="truncated"):
        read_image(io.BytesIO(whole[:-200]), SIZE, in_chans=5)


@pytest.mark.parametrize("resize", ["crop", "squash", SMALL])
def test_channels_are_resized_each_as_gray_is(resize):
    frames = stack(5, 40, 60)
    each = [read(saved(Image.fromarray(frame), "PNG"), 1, SIZE, resize) for frame in frames]
    assert np.array_equal(read(tiff(frames), 5, SIZE, resize), np.dstack(each))


def test_every_frame_is_turned_upright():
    frames = stack(2, 20, 30)
    turned = [np.rot90(frame, -1)[5:25] for frame in frames]
    assert np.array_equal(read(tiff(frames, tiffinfo={274: 6}), 2, 20), np.dstack(turned))


@pytest.mark.parametrize("in_chans", [1, 2, 5, 13])
def test_a_random_part_is_the_same_one_of_every_channel(in_chans, tmp_path):
    frames = stack(in_chans, 40, 60)
    (tmp_path / "a.tif").write_bytes(tiff(frames).getvalue())
    for draws in np.random.default_rng(0).random((4, NUM_CROP_DRAWS)):
        found = Cut(SIZE, (0.2, 0.8), in_chans=in_chans).of_file(str(tmp_path / "a.tif"), draws)
        assert found.shape == (SIZE, SIZE, in_chans)
        for number, frame in enumerate(frames):
            (tmp_path / "one.png").write_bytes(saved(Image.fromarray(frame), "PNG").getvalue())
            alone = Cut(SIZE, (0.2, 0.8), in_chans=1).of_file(str(tmp_path / "one.png"), draws)
            assert np.array_equal(found[..., number], alone[..., 0])


@pytest.mark.parametrize("in_chans", [1, 2, 4, 5, 13])
def test_a_part_of_any_number_of_channels_is_resized_as_pillow_does(in_chans):
    def enlarged(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))

    smooth = [enlarged(frame, (50, 70)) for frame in stack(in_chans, 6, 6)]
    expected = [enlarged(frame, (SIZE, SIZE)) for frame in smooth]
    found = resized(np.dstack(smooth), SIZE)
    assert np.abs(found.astype(int) - np.dstack(expected)).max() <= 1


def test_a_color_jpeg_is_cut_in_gray_at_a_fraction_of_its_size(tmp_path):
    smooth = Image.fromarray(levels(5, 5, 3)).resize((400, 320), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    draws = np.random.default_rng(0).random(NUM_CROP_DRAWS)
    gray, colors = (Cut(SIZE, (0.9, 1.0), in_chans=n).of_file(str(tmp_path / "a.jpg"), draws) for n in (1, 3))
    luma = np.asarray(Image.fromarray(colors).convert("L"))
    assert gray.shape == (SIZE, SIZE, 1)
    assert np.abs(gray[..., 0].astype(int) - luma).max() <= 2


@pytest.mark.parametrize("num_processes", [0, 2])
def test_processes_read_stacks_as_this_one_does(num_processes, tmp_path):
    for number in range(20):
        frames = [levels(SIZE, SIZE, seed=seed) for seed in range(number, number + 5)]
        (tmp_path / f"{number}.tif").write_bytes(tiff(frames).getvalue())
    (tmp_path / "7.tif").write_bytes(tiff(stack(4)).getvalue())
    files = [str(tmp_path / f"{number}.tif") for number in range(20)] * 15
    found = list(read_images(files, SIZE, "crop", num_processes, in_chans=5))
    assert found[7].startswith("an image must have 5 channels")
    expected = [read_image(file, SIZE, in_chans=5) for number, file in enumerate(files[:20]) if number != 7]
    assert np.array_equal([image for number, image in enumerate(found[-20:]) if number != 7], expected)


def test_images_are_decoded_anew_for_another_number_of_channels(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(levels(SIZE, SIZE, 4, seed=number)).save(tmp_path / "train" / name / f"{number}.png")
    shapes = [cached(ImageFolder(tmp_path, "train", SIZE, in_chans=n)).images.shape for n in (3, 1, 4, 3)]
    assert shapes == [(6, SIZE, SIZE, n) for n in (3, 1, 4, 3)]
    assert cached(ImageFolder(tmp_path, "train", SIZE, in_chans=4).thumbnails()).images.shape[-1] == 4


def test_without_a_word_images_are_read_as_before(tmp_path):
    """So caches of an earlier version stay good."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "dog").mkdir()
    for name in ("cat", "dog"):
        Image.fromarray(levels(SIZE, SIZE)).save(tmp_path / "train" / name / "a.png")
    source = ImageFolder(Path(tmp_path), "train", 8)
    assert source.fingerprint() == f"imagefolder 3 8 crop {tmp_path}"

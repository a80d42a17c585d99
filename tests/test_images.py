"""Pictures of every kind are read as they are meant, by one reader; folders list what is a picture."""

import logging
import os
import struct
import sys
import warnings
import zlib
from importlib.machinery import PathFinder

import numpy as np
import pytest
import tifffile
import torch
from mmengine.logging import MMLogger
from PIL import Image
from scipy import io as scipy_io

from spectral_backbones.engine import UserError, checkpoint, images, numbers
from spectral_backbones.engine.images import find_images, read_bands, read_image, read_upright
from spectral_backbones.engine.listing import list_images
from spectral_backbones.pretraining.datasets import _check_sizes

from .classification_fixtures import ROOT

RAMP = np.arange(12 * 16, dtype=np.float64).reshape(12, 16) / (12 * 16 - 1)  # (H, W), 0 to 1
EXPECTED = (255 * RAMP).round()


def png(values, bits=16, colour=0, chunks=()):
    """A PNG of samples (H, W, samples), written by its specification; Pillow writes no 16-bit colours and no sBIT."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(*pair) for pair in chunks), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def deep(top, dtype=np.uint16, low=0):
    return (low + RAMP * (top - low)).round().astype(dtype)


def tiff(values, **kwargs):
    return lambda path: tifffile.imwrite(path, values, **{"photometric": "minisblack", **kwargs})


def tag(code, kind, *values):
    return {"extratags": [(code, kind, len(values), values if len(values) > 1 else values[0], True)]}


def pgm(top):
    body = b"P5 16 12 %d\n" % top
    return lambda path: path.write_bytes(body + deep(top).astype(">u2").tobytes())


def packed_tiff(bits):
    """A TIFF of samples packed to fewer bits than a type has."""

    def write(path):
        rows = "".join("".join(f"{value:0{bits}b}" for value in row) for row in deep(2**bits - 1))
        data = int(rows, 2).to_bytes(len(rows) // 8, "big")
        tags = [(256, 16), (257, 12), (258, bits), (259, 1), (262, 1), (273, 0), (277, 1), (278, 12), (279, len(data))]
        start = 8 + 2 + 12 * len(tags) + 4
        body = b"".join(struct.pack("<HHII", code, 4, 1, start if code == 273 else value) for code, value in tags)
        path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + data)

    return write


def saved(values, **kwargs):
    return lambda path: Image.fromarray(values).save(path, **kwargs)


DEEP = {
    "16-bit png": ("a.png", lambda path: path.write_bytes(png(deep(65535)[..., None]))),
    "12 bits of a png in the lower ones": (
        "a.png",
        lambda path: path.write_bytes(png(deep(4095)[..., None], chunks=[(b"sBIT", b"\x0c")])),
    ),
    "12 bits of a png in the upper ones": (
        "a.png",
        lambda path: path.write_bytes(png(deep(4095)[..., None] << 4, chunks=[(b"sBIT", b"\x0c")])),
    ),
    "16-bit rgb png": ("a.png", lambda path: path.write_bytes(png(np.stack([deep(65535)] * 3, -1), colour=2))),
    "12-bit rgb png": (
        "a.png",
        lambda path: path.write_bytes(png(np.stack([deep(4095)] * 3, -1), colour=2, chunks=[(b"sBIT", b"\x0c" * 3)])),
    ),
    "16-bit tiff": ("a.tif", tiff(deep(65535))),
    "16-bit tiff, big end first": ("a.TIF", tiff(deep(65535), byteorder=">")),
    "16-bit BigTIFF": ("a.tif", tiff(deep(65535), bigtiff=True)),
    "16-bit tiff by Pillow, LZW": ("a.tif", saved(deep(65535), compression="tiff_lzw")),
    "16-bit rgb tiff": ("a.tiff", tiff(np.stack([deep(65535)] * 3, -1), photometric="rgb")),
    "16-bit rgb tiff in planes": (
        "a.tif",
        tiff(np.stack([deep(65535)] * 3), photometric="rgb", planarconfig="separate"),
    ),
    "white is zero": ("a.tif", tiff(deep(65535)[::-1, ::-1], photometric="miniswhite")),
    "MaxSampleValue": ("a.tif", tiff(deep(4095), **tag(281, "H", 4095))),
    "MaxSampleValue of rgb": (
        "a.tif",
        tiff(np.stack([deep(1023)] * 3, -1), photometric="rgb", **tag(281, "H", 1023, 1023, 1023)),
    ),
    "SMaxSampleValue of floats": (
        "a.tif",
        tiff((RAMP * 300 - 100).astype("f4"), extratags=[(340, "f", 1, -100.0, True), (341, "f", 1, 200.0, True)]),
    ),
    "a stated range that is too small": ("a.tif", tiff(deep(65535), **tag(281, "H", 99))),
    "12 bits, packed": ("a.tif", packed_tiff(12)),
    "signed 16 bits": ("a.tif", tiff(deep(32767, np.int16, -32768))),
    "signed 8 bits": ("a.tif", tiff(deep(127, np.int8, -128))),
    "unsigned 32 bits": ("a.tif", tiff(deep(2**32 - 1, np.uint32))),
    "unsigned 64 bits": ("a.tif", tiff(deep(2**64 - 2**12, np.uint64))),
    "float32 to 1": ("a.tif", tiff(RAMP.astype("f4"))),
    "floats, white is zero": ("a.tif", tiff((1 - RAMP).astype("f4"), photometric="miniswhite")),
    "16-bit inks": ("a.tif", tiff(np.stack([*[deep(65535)[::-1, ::-1]] * 3, deep(0)], -1), photometric="separated")),
    "float64 to 1": ("a.tif", tiff(RAMP)),
    "float16 to 1": ("a.tif", tiff(RAMP.astype("f2"))),
    "pgm of 10 bits": ("a.pgm", pgm(1023)),
    "pgm of 16 bits": ("a.pgm", pgm(65535)),
    "8 bits": ("a.png", saved(EXPECTED.astype(np.uint8))),
}


@pytest.mark.parametrize("kind", DEEP)
def test_every_depth_goes_from_black_to_white(tmp_path, kind):
    name, write = DEEP[kind]
    write(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.mode in ("L", "RGB") and image.size == (16, 12)
    assert read_upright(tmp_path / name) == pytest.approx(np.stack([EXPECTED] * 3, -1), abs=1)


@pytest.fixture
def told(monkeypatch):
    """What is told from here on, as if nothing had been before."""
    heard = []
    monkeypatch.setattr(images, "_TOLD", bytearray(2))
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield heard
    logger.removeHandler(handler)


def test_a_scale_is_told_once(tmp_path, told):
    for name in ("a.png", "b.png"):
        Image.fromarray(deep(60000)).save(tmp_path / name)
        read_image(tmp_path / name)
    (message,) = told
    assert "a.png holds uint16 numbers from 0 to 60000: scaled to 8 bits from 0 to 65535" in message


def test_what_cannot_be_shown_is_refused_by_name(tmp_path):
    holes = RAMP.astype("f4")
    holes[3, 4] = np.nan
    cases = {
        "long.tif": (tiff(deep(60000, np.int32)), "holds int32 from 0 to 60000, .*measure-channels"),
        "nan.tif": (tiff(holes), "holds 1 values of 192 that are NaN"),
        "far.tif": (tiff((2000 * RAMP - 40).astype("f4")), "floats from -40 to 1960, .*measure-channels"),
        "bands.tif": (tiff(np.zeros((12, 16, 7), "u1"), planarconfig="contig"), "has 7 bands.*in_chans=7"),
        "complex.tif": (tiff(RAMP.astype("c8")), "complex"),
        "lab.tif": (lambda path: tifffile.imwrite(path, np.zeros((8, 8, 3), "u2"), photometric="cielab"), "CIELAB"),
        "empty.jpg": (lambda path: path.write_bytes(b""), "empty file"),
        "text.jpg": (lambda path: path.write_text("no picture"), "damaged or no picture; .*no known format"),
        "absent.jpg": (lambda path: None, "No such file"),
        "folder.png": (lambda path: path.mkdir(), "no file"),
        "pipe.png": (os.mkfifo, "no file"),
    }
    for name, (write, says) in cases.items():
        write(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} ?.*{says}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "gif", "webp", "bmp", "16.png"])
def test_a_file_cut_short_is_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    if ending == "16.png":
        path.write_bytes(png(noise.astype(np.uint16) * 257, colour=2))
    else:
        Image.fromarray(noise).save(path)
    read_image(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    with pytest.raises(UserError, match=f"cannot read image .*a.{ending}"):
        read_image(path)


def test_transparent_pixels_lie_on_a_background(tmp_path):
    """What is hidden under them is not seen, whatever way a format says that they are transparent."""
    half = np.zeros((4, 4, 4), np.uint8)
    half[..., 0], half[:2, :, 3], half[2, :, 3] = 200, 255, 128
    Image.fromarray(half).save(tmp_path / "rgba.png")
    Image.fromarray(half).convert("LA").save(tmp_path / "la.png")
    Image.fromarray(half).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    Image.fromarray(half).save(tmp_path / "rgba.tif")
    (tmp_path / "deep.png").write_bytes(png(half.astype(np.uint16) * 257, colour=6))
    palette = Image.fromarray((half[..., 3] < 128).astype(np.uint8)).convert("P")
    palette.putpalette([200, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    key = np.where(half[..., 3:] > 0, [[[200, 0, 0]]], [[[0, 9, 255]]]).astype(np.uint8)
    Image.fromarray(key).save(tmp_path / "key.png", transparency=(0, 9, 255))
    deep_key = np.where(key == 200, 51400, key.astype(np.uint16))
    hidden = [(b"tRNS", struct.pack(">HHH", 0, 9, 255))]
    (tmp_path / "deep_key.png").write_bytes(png(deep_key, colour=2, chunks=hidden))
    for path in sorted(tmp_path.iterdir()):
        white, green = read_upright(path), read_upright(path, (0, 250, 0))
        seen = (60, 60, 60) if path.stem == "la" else (200, 0, 0)
        assert white[0, 0] == pytest.approx(seen, abs=1) and green[0, 0] == pytest.approx(seen, abs=1), path
        assert white[3, 3].tolist() == [255, 255, 255] and green[3, 3].tolist() == [0, 250, 0], path
        if path.stem in ("rgba", "deep"):
            assert white[2, 0] == pytest.approx((227, 127, 127), abs=1), path


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "16.tif", "16.png"])
@pytest.mark.parametrize("held", range(1, 9))
def test_orientation_is_heeded_once_in_every_format(tmp_path, ending, held):
    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[0x0112] = held
    stored = Image.fromarray(EXPECTED.astype(np.uint8)).resize((48, 32))
    methods = Image.Transpose
    upright = {
        2: methods.FLIP_LEFT_RIGHT,
        3: methods.ROTATE_180,
        4: methods.FLIP_TOP_BOTTOM,
        5: methods.TRANSPOSE,
        6: methods.ROTATE_270,
        7: methods.TRANSVERSE,
        8: methods.ROTATE_90,
    }
    seen = np.asarray(stored.transpose(upright[held]) if held > 1 else stored).astype(int)
    if ending == "16.tif":
        tiff(np.asarray(stored).astype(np.uint16) * 257, **tag(274, "H", held))(path)
    elif ending == "16.png":
        Image.fromarray(np.asarray(stored).astype(np.uint16) * 257).save(path, exif=exif)
    else:
        stored.convert("RGB").save(path, exif=exif)
    assert read_upright(path)[..., 0] == pytest.approx(seen, abs=12)
    assert read_bands(path).shape[:2] == seen.shape


@pytest.mark.parametrize("damage", [b"Exif\0\0no tags", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"])
def test_a_picture_whose_exif_is_damaged_is_read_as_it_lies(tmp_path, damage):
    Image.fromarray(EXPECTED.astype(np.uint8)).resize((48, 32)).save(tmp_path / "a.jpg", exif=damage)
    assert read_image(tmp_path / "a.jpg").size == (48, 32) and read_bands(tmp_path / "a.jpg").shape == (32, 48, 1)


def test_other_colours_and_frames_are_read(tmp_path):
    red = Image.new("RGB", (8, 6), (220, 30, 20))
    for mode, ending in (("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "jpg"), ("YCbCr", "tif"), ("P", "png")):
        (red.quantize() if mode == "P" else red.convert(mode)).save(tmp_path / f"{mode}.{ending}")
        assert read_upright(tmp_path / f"{mode}.{ending}")[0, 0].tolist() == pytest.approx((220, 30, 20), abs=12), mode
    Image.fromarray(EXPECTED > 100).save(tmp_path / "bits.png")
    assert np.array_equal(read_upright(tmp_path / "bits.png")[..., 0], 255 * (EXPECTED > 100))
    for ending in ("gif", "png", "webp", "tif"):
        red.save(tmp_path / f"moving.{ending}", save_all=True, append_images=[Image.new("RGB", (8, 6))])
        assert read_upright(tmp_path / f"moving.{ending}")[3, 3].tolist() == pytest.approx((220, 30, 20), abs=12)


def test_bands_are_read_as_they_are_stored(tmp_path):
    values = (np.arange(12 * 16 * 5).reshape(12, 16, 5) * 40 - 3000).astype(np.int16)
    tiff(values, planarconfig="contig")(tmp_path / "contig.tif")
    tiff(np.moveaxis(values, -1, 0), planarconfig="separate")(tmp_path / "planes.tif")
    tiff(np.moveaxis(values, -1, 0))(tmp_path / "pages.tif")
    tifffile.imwrite(tmp_path / "plain.tif", values)
    tiff(values, planarconfig="contig", compression="zlib", predictor=True)(tmp_path / "deflate.tif")
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", np.moveaxis(values, -1, 0))
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(read_bands(path, 5), values), path
    Image.new("RGBA", (3, 2), (1, 2, 3, 4)).save(tmp_path / "rgba.png")
    assert read_bands(tmp_path / "rgba.png", 4)[0, 0].tolist() == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"contig.tif has 5 bands, the model takes 4 \(model.in_chans\)"):
        read_bands(tmp_path / "contig.tif", 4)
    with pytest.raises(UserError, match=r"has 3 bands .RGB."):
        Image.new("RGB", (3, 2)).save(tmp_path / "rgb.png")
        read_bands(tmp_path / "rgb.png", 2)


@pytest.mark.parametrize("bands", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_bands_of_every_layout_of_a_tiff_are_read(tmp_path, bands, dtype):
    """In one page, side by side or one after another, or a page a band, written at once or one by one."""
    values = np.random.RandomState(0).randint(0, 200, (6, 8, bands)).astype(dtype)
    planes = np.moveaxis(values, -1, 0)
    tifffile.imwrite(tmp_path / "contig.tif", values, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(tmp_path / "pages.tif", planes, photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "appended.tif") as file:
        for plane in planes:
            file.write(plane, contiguous=False)
    first, *others = map(Image.fromarray, planes)
    first.save(tmp_path / "pillow.tif", save_all=True, append_images=others)
    if bands > 3 and dtype == "u1":
        more = dict(planarconfig="contig", extrasamples=["unspecified"] * (bands - 3))
        tifffile.imwrite(tmp_path / "more.tif", values, photometric="rgb", **more)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_bands(path, bands), values, err_msg=path.name)
    assert read_bands(tmp_path / "appended.tif", 1).tolist() == values[..., :1].tolist()  # of frames the first
    for path in (tmp_path / "pages.tif", tmp_path / "appended.tif", tmp_path / "pillow.tif"):
        with pytest.raises(UserError, match=f"{path.name} has {bands} bands|{path.name} has 3 bands"):
            read_bands(path, 40)


def write_envi(path, values, interleave="bsq", **header):
    envi = pytest.importorskip("spectral.io.envi", reason="spectral is not installed")
    envi.save_image(str(path), values, interleave=interleave, ext=".img", force=True, metadata=header)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u2", "f4"])
def test_envi_is_read_by_either_of_its_files(tmp_path, interleave, dtype):
    values = np.random.RandomState(0).randint(0, 200, (6, 8, 5)).astype(dtype)
    write_envi(tmp_path / "scene.hdr", values, interleave)
    for ending in (".hdr", ".img"):
        read = read_bands(tmp_path / f"scene{ending}", 5)
        assert np.array_equal(read, values) and read.dtype == values.dtype.newbyteorder("=")
    assert [path.name for path in find_images([str(tmp_path)])] == ["scene.hdr"]
    with pytest.raises(UserError, match=r"scene.img has 5 bands, the model takes 4"):
        read_bands(tmp_path / "scene.img", 4)


def test_envis_data_may_be_called_otherwise(tmp_path):
    values = np.arange(6 * 8 * 5, dtype=np.uint16).reshape(6, 8, 5)
    write_envi(tmp_path / "a.hdr", values)
    data = (tmp_path / "a.img").rename(tmp_path / "a.dat")
    assert np.array_equal(read_bands(tmp_path / "a.hdr"), values) and np.array_equal(read_bands(data), values)
    (tmp_path / "a.hdr").rename(tmp_path / "a.dat.hdr")
    assert np.array_equal(read_bands(tmp_path / "a.dat.hdr"), values) and np.array_equal(read_bands(data), values)
    (tmp_path / "a.dat.hdr").rename(tmp_path / "alone.hdr")
    with pytest.raises(UserError, match=r"cannot read image .*alone.hdr: "):
        read_bands(tmp_path / "alone.hdr")
    with pytest.raises(UserError, match=r"a.dat.*no known format; of ENVI, a.hdr has to lie beside it"):
        read_bands(data)


def test_nothing_of_ours_hides_the_package_that_reads_envi():
    """It is called as our command is; a clone's root and its tools are searched before what is installed."""
    assert PathFinder.find_spec("spectral", [str(ROOT), str(ROOT / "tools")]) is None
    assert hasattr(pytest.importorskip("spectral"), "open_image")


def test_a_picture_that_is_called_as_envis_is_still_a_picture(tmp_path):
    Image.new("RGB", (8, 6), (220, 30, 20)).save(tmp_path / "photo.img", format="PNG")
    assert read_upright(tmp_path / "photo.img")[3, 3].tolist() == [220, 30, 20]


def test_damaged_envi_is_told(tmp_path):
    values = np.arange(6 * 8 * 5, dtype=np.uint16).reshape(6, 8, 5)
    write_envi(tmp_path / "a.hdr", values)
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:100])
    with pytest.raises(UserError, match=r"a.hdr: .*a.img has 100 bytes, its header tells of 480: it is cut short"):
        read_bands(tmp_path / "a.hdr")
    (tmp_path / "a.hdr").write_text("#?RADIANCE\n")
    with pytest.raises(UserError, match=r"a.hdr: File does not appear to be an ENVI header"):
        read_bands(tmp_path / "a.hdr")


ENVI_HEADERS = {
    "a mark of UTF-8 comes first": lambda text: b"\xef\xbb\xbf" + text,
    "lines end as in Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "a unit is in Latin-1": lambda text: text + b"wavelength units = \xb5m\n",
    "a description is in UTF-8": lambda text: text.replace(b"\n", "\ndescription = {Größe in µm}\n".encode(), 1),
    "names are in capitals": lambda text: text.replace(b"data type", b"DATA TYPE").replace(b"bands", b"Bands"),
    "the interleave has a capital": lambda text: text.replace(b"interleave = bil", b"interleave = Bil"),
    "a gain is left alone": lambda text: text + b"reflectance scale factor = 10000\n",
}


@pytest.mark.parametrize("kind", ENVI_HEADERS)
def test_headers_of_envi_are_read_however_they_are_spelt(tmp_path, kind):
    values = np.arange(6 * 8 * 5, dtype=np.uint16).reshape(6, 8, 5)
    write_envi(tmp_path / "a.hdr", values, "bil")
    (tmp_path / "a.hdr").write_bytes(ENVI_HEADERS[kind]((tmp_path / "a.hdr").read_bytes()))
    assert np.array_equal(read_bands(tmp_path / "a.hdr", 5), values)


@pytest.mark.parametrize("old, new, says", [
    ("interleave = bsq", "interleave = tiled", "interleave tiled; ENVI's are bsq, bil and bip"),
    ("data type = 12", "data type = 99", "data type '99', which is none of ENVI's"),
    ("lines = 6", "lines = -6", "-6 lines, 8 samples and 5 bands"),
    ("byte order = 0", "byte order = 0\nfile compression = 1", "it is compressed"),
    ("bands = 5\n", "", "\"bands\" missing"),
])  # fmt: skip
def test_headers_of_envi_that_tell_of_no_picture_are_told(tmp_path, old, new, says):
    write_envi(tmp_path / "a.hdr", np.zeros((6, 8, 5), dtype=np.uint16))
    (tmp_path / "a.hdr").write_text((tmp_path / "a.hdr").read_text().replace(old, new))
    with pytest.raises(UserError, match=rf"cannot read image .*a.hdr: .*{says}"):
        read_bands(tmp_path / "a.hdr")


def test_the_order_of_bytes_is_no_type_of_its_own(tmp_path):
    """Sets are of one type, whatever machine wrote which file."""
    values = np.arange(6 * 8 * 5, dtype=np.uint16).reshape(6, 8, 5)
    np.save(tmp_path / "little.npy", values.astype("<u2"))
    np.save(tmp_path / "big.npy", values.astype(">u2"))
    for path in tmp_path.iterdir():
        read = read_bands(path)
        assert read.dtype == np.uint16 and read.dtype.isnative and np.array_equal(read, values)


def test_arrays_of_what_is_no_number_are_told(tmp_path):
    for values, says in (
        (np.zeros((6, 8), dtype=[("a", "u1")]), r"holds no numbers, but \[\('a', 'u1'\)\]"),
        (np.zeros((6, 8, 5), dtype="M8[s]"), r"holds no numbers, but datetime64\[s\]"),
        (np.zeros((6, 8, 5), dtype="c8"), "holds complex numbers"),
    ):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(UserError, match=f"a.npy {says}"):
            read_bands(tmp_path / "a.npy", 5)
    np.savez(tmp_path / "a.npz", values)
    with pytest.raises(UserError, match=r"a.npy: it is an archive of arrays"):
        read_bands((tmp_path / "a.npz").rename(tmp_path / "a.npy"))
    (tmp_path / "a.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    with pytest.raises(UserError, match=r"a.mat: it is of MATLAB 7.3"):
        read_bands(tmp_path / "a.mat")


def test_matlabs_pictures_are_found_among_what_else_a_file_holds(tmp_path):
    values = np.random.RandomState(0).randint(0, 200, (6, 8, 5)).astype(np.uint16)
    mask = (values[..., 0] > 100).astype(np.uint8)
    scipy_io.savemat(tmp_path / "beside.mat", {"data": values, "map": mask, "name": "scene", "gain": 2.5})
    scipy_io.savemat(tmp_path / "first.mat", {"data": np.moveaxis(values, -1, 0)})
    scipy_io.savemat(tmp_path / "field.mat", {"hsi": {"Data": values, "RGB": values[..., :3], "info": {"a": 1.0}}})
    scipy_io.savemat(tmp_path / "packed.mat", {"data": values}, do_compression=True)
    for path in tmp_path.iterdir():
        assert np.array_equal(read_bands(path, 5), values), path
    assert np.array_equal(read_bands(tmp_path / "beside.mat"), values)
    scipy_io.savemat(tmp_path / "plane.mat", {"map": mask})
    assert np.array_equal(read_bands(tmp_path / "plane.mat", 1)[..., 0], mask)


def test_files_of_matlab_that_leave_doubt_are_told(tmp_path):
    values = np.zeros((6, 8, 5))
    for held, says in (
        (dict(a=values, b=values), r"holds a \(6, 8, 5\), b \(6, 8, 5\): leave the one picture"),
        (dict(name="scene"), "holds no array of numbers"),
    ):
        scipy_io.savemat(tmp_path / "a.mat", held)
        with pytest.raises(UserError, match=rf"cannot read image .*a.mat: it {says}"):
            read_bands(tmp_path / "a.mat", 5)
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
    with pytest.raises(UserError, match=r"new.mat: it is of MATLAB 7.3, .* save it as save\(file, name, '-v7'\)"):
        read_bands(tmp_path / "new.mat")
    (tmp_path / "cut.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:130])
    with pytest.raises(UserError, match=r"cannot read image .*cut.mat"):
        read_bands(tmp_path / "cut.mat")


def test_what_is_no_number_is_told_in_every_format(tmp_path):
    values = np.ones((6, 8, 5), dtype=np.float32)
    values[2, 3, 4] = np.nan
    np.save(tmp_path / "a.npy", values)
    scipy_io.savemat(tmp_path / "a.mat", {"data": values})
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    write_envi(tmp_path / "a.hdr", values)
    for path in sorted(tmp_path.glob("a.[nmth]*")):
        with pytest.raises(UserError, match=rf"{path.name} holds 1 values of 240 that are NaN"):
            read_bands(path, 5)
    np.save(tmp_path / "a.npy", np.zeros((0, 8, 5)))
    with pytest.raises(UserError, match=r"a.npy holds no pixels"):
        read_bands(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(8, 8, 30), (8, 8, 3), (9, 7, 5), (16, 12, 3)])
def test_bands_of_an_array_are_found_by_its_sides(tmp_path, shape):
    values = np.random.RandomState(0).rand(*shape)
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", np.moveaxis(values, -1, 0))
    for name in ("last.npy", "first.npy"):
        assert np.array_equal(read_bands(tmp_path / name), values), name


def test_a_reader_of_another_ending_is_added(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "READERS", dict(numbers.READERS))

    @numbers.register_reader(".raw")
    def read(content, channels):
        return numbers.Numbers.of_type(np.frombuffer(content, np.uint8).reshape(2, 3, channels or 1))

    (tmp_path / "a.raw").write_bytes(bytes(range(12)))
    assert read_bands(tmp_path / "a.raw", 2)[1, 2].tolist() == [10, 11]
    (tmp_path / "b.raw").write_bytes(bytes(5))
    with pytest.raises(UserError, match=r"cannot read image .*b.raw: cannot reshape"):
        read_bands(tmp_path / "b.raw", 2)


# Folders


def test_what_reads_a_file_closes_it(tmp_path, monkeypatch):
    values = np.zeros((4, 6, 3), np.uint8)
    for ending in ("png", "jpg", "gif", "webp"):
        Image.fromarray(values).save(tmp_path / f"picture.{ending}")
    tifffile.imwrite(tmp_path / "picture.tif", values, photometric="rgb")
    np.save(tmp_path / "picture.npy", values)
    scipy_io.savemat(tmp_path / "picture.mat", {"cube": values})
    write_envi(tmp_path / "envi.hdr", values)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    left = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: left.append(str(told.exc_value)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for path in sorted(tmp_path.glob("picture.*")):
            read_bands(path)
            if path.suffix not in (".npy", ".mat"):
                read_image(path)
                read_upright(path)
        read_bands(tmp_path / "envi.hdr")
        _check_sizes([str(tmp_path / "picture.png"), str(tmp_path / "picture.jpg")])
        assert checkpoint.is_whole(tmp_path / "weights.pth") and checkpoint.read(tmp_path / "weights.pth")
        checkpoint.replace(tmp_path / "weights.pth", tmp_path / "best.pth")
    assert not [said for said in left if str(tmp_path) in said]


def test_a_listing_has_each_picture_once_and_nothing_hidden(tmp_path):
    root = tmp_path / "root"
    for name in ("a.JPG", "é.jfif", "b.gif", "c.avif", "d.jp2", "e.tga", "sub/f.png", "shots.png/g.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(root / name, format="PNG")
    shown = sorted(root.rglob("*.*"))
    shown = [path for path in shown if path.is_file()]
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/a.jpg", "@eaDir/a.jpg", "._a.jpg", ".~lock.3.png", "Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "photo.heic").write_bytes(b"x")
    (root / "README").write_bytes(b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (9, 9)).save(outside / "h.png")
    (root / "0_linked").symlink_to(outside)
    (root / "0_again").symlink_to(root / "sub")  # before sub by name: the folder itself counts
    (root / "sub" / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "lost.png").symlink_to(root / "nowhere.png")
    (root / "same.jpg").symlink_to(root / "a.JPG")
    os.link(root / "b.gif", root / "twin.gif")
    os.mkfifo(root / "pipe.png")
    listing = list_images(root)
    assert list(listing.images) == sorted([*shown, root / "0_linked" / "h.png"])
    assert listing.skipped == {".heic": 1, "without ending": 1, "no files (links to nothing, pipes)": 3}
    assert sorted(path.name for path in listing.repeated) == ["same.jpg", "twin.gif"]
    assert "5 files passed over: 3 no files" in listing.say_skipped() and "1 .heic" in listing.say_skipped()
    assert find_images([str(root), str(root / "a.JPG")]) == [*listing.images, root / "a.JPG"]
    with pytest.raises(UserError, match=r"pipe\.png is no file"):
        find_images([str(root / "pipe.png")])

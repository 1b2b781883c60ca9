"""Bytes to RGB and back, once for the whole project. An image is uint8 (H, W, 3), sRGB."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

Rgb = UInt8[np.ndarray, "_ _ 3"]  # height, width, channels
Mask = Bool[np.ndarray, "_ _"]


class ImageError(ValueError):
    """Bytes that are not a usable picture. `reason` is one short word for counting, the message is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # the default would call the class with the message alone when it crosses a process
        return ImageError, (self.reason, str(self))


def decode_image(data: bytes, *, max_pixels: float = 64e6, min_side: int = 8) -> Rgb:
    """Decode one still: first frame, EXIF turned, colour profile applied, alpha laid on white.

    The size is read from the header and checked before any pixel is decoded, so a decompression bomb costs nothing.

    Raises:
        ImageError: reason `not_an_image`, `too_many_pixels`, `too_small`, `truncated`.
    """
    image = _loaded(data, max_pixels, min_side)
    try:
        return np.array(_to_srgb(image))
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise _damaged(error) from error


def decode_painted(data: bytes, *, max_pixels: float = 64e6, min_side: int = 8) -> Float[np.ndarray, "H W"]:
    """Where a picture is to be painted: 1 where the mask is transparent, or white if no part of it is transparent.

    Raises:
        ImageError: as `decode_image`.
    """
    image = _loaded(data, max_pixels, min_side)
    try:
        if image.has_transparency_data:
            kept = np.asarray(image.convert("RGBA").getchannel("A"), np.float32)
            if kept.min() < 255:
                return 1 - kept / np.float32(255)
        return np.asarray(_to_srgb(image)).mean(axis=2, dtype=np.float32) / np.float32(255)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise _damaged(error) from error


def _loaded(data: bytes, max_pixels: float, min_side: int) -> Image.Image:
    """The first frame, EXIF turned, in the file's own mode. Raises as `decode_image`."""
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"image is too large: {error}; at most {max_pixels:.0f} pixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError("not_an_image", f"not an image: {len(data)} bytes of no known image format") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"image is {width}x{height}; at most {max_pixels:.0f} pixels are decoded")
    if min(width, height) < min_side:
        raise ImageError("too_small", f"image is {width}x{height}; each side must be at least {min_side} pixels")
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    return ImageError("truncated", f"image data are damaged or incomplete: {error}")


def _to_srgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        values = np.asarray(image, np.float32)
        scale = 255.0 / 65535.0 if values.max() > 255 else 1.0
        image = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8), "L")
    if image.mode == "P" or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "PA", "RGBa"):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken or foreign profile: the pixels are still the best that is known
    return image.convert("RGB")


def encode_png(rgb: Rgb, level: int = -1, text: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes, the same for the same pixels and text. Level 0..9 is zlib's: 1 for what soon is decoded again."""
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, value)
    return _encode(Image.fromarray(rgb), "PNG", compress_level=level, pnginfo=chunks)


def encode_jpeg(rgb: Rgb, quality: int = 95, **segments: bytes) -> bytes:
    """JPEG bytes without chroma subsampling; `segments` are Pillow's, e.g. `xmp`, 65,000 bytes at most."""
    return _encode(Image.fromarray(rgb), "JPEG", quality=quality, subsampling=0, **segments)


def encode_webp(rgb: Rgb, quality: int = 95, **chunks: bytes) -> bytes:
    """Lossy WebP bytes; `chunks` are Pillow's, e.g. `xmp`."""
    return _encode(Image.fromarray(rgb), "WEBP", quality=quality, **chunks)


def encode_mask(mask: np.ndarray) -> bytes:
    """A boolean or 0/1 mask (H, W) as one-channel PNG."""
    return _encode(Image.fromarray(np.asarray(mask, bool).astype(np.uint8) * 255, "L"), "PNG")


def decode_mask(data: bytes) -> Mask:
    """Boolean (H, W) from a one-channel PNG."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 127


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def resize(rgb: Rgb, size: tuple[int, int]) -> Rgb:
    """Antialiased bicubic resize to (height, width)."""
    if rgb.shape[:2] == size:
        return rgb
    return np.array(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def pad_square(rgb: Rgb, fill: int = 255) -> Rgb:
    """Pad the shorter side on both ends with `fill`, so that nothing is cropped away."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(rgb, ((top, side - height - top), (left, side - width - left), (0, 0)), constant_values=fill)


def grid(rows: Sequence[Sequence[Rgb]], pad: int = 2, background: int = 255) -> Rgb:
    """Lay equal tiles out in rows; a shorter row is filled with background."""
    tiles = [tile for row in rows for tile in row]
    if not tiles:
        raise ValueError("rows: no tile to lay out; give at least one picture")
    height, width = tiles[0].shape[:2]
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + pad) + pad, columns * (width + pad) + pad, 3)
    sheet = np.full(shape, background, np.uint8)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            y, x = pad + r * (height + pad), pad + c * (width + pad)
            sheet[y : y + height, x : x + width] = tile
    return sheet

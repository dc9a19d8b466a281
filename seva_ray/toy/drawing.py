"""How the shapes and signs of the toy world are drawn."""

from functools import cache

from PIL import ImageDraw, ImageFont


def draw_sign_words(draw: ImageDraw.ImageDraw, word: str, left: int, top: int) -> None:
    """Draw a sign with a word."""
    draw.rectangle([left - 2, top, left + 32, top + 12], fill=(40, 40, 48))
    draw.text((left + 3, top), word, font=_sign_font(), fill=(250, 250, 250))


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int, fill: int | tuple[int, int, int]) -> None:
    """Draw a shape of radius r px around (x, y)."""
    match shape:
        case "circle":
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        case "ring":
            draw.ellipse([x - r, y - r, x + r, y + r], outline=fill, width=3)
        case "square":
            draw.rectangle([x - r + 1, y - r + 1, x + r - 1, y + r - 1], fill=fill)
        case "triangle":
            draw.polygon([(x, y - r), (x + r, y + r - 1), (x - r, y + r - 1)], fill=fill)
        case "diamond":
            draw.polygon([(x, y - r - 1), (x + r + 1, y), (x, y + r + 1), (x - r - 1, y)], fill=fill)
        case "cross":
            draw.rectangle([x - 2, y - r, x + 2, y + r], fill=fill)
            draw.rectangle([x - r, y - 2, x + r, y + 2], fill=fill)


@cache
def _sign_font() -> ImageFont.ImageFont:
    """Pillow's own bitmap font, which has the same pixels on every machine."""
    return ImageFont.load_default_imagefont()

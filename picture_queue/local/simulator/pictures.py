"""The simulator's pictures, drawn as a file of one of its formats.

The same prompt, seed and size give the same bytes with the same version of Pillow. For
antialiasing, a picture is drawn at twice its size and then reduced.
"""

import io

from PIL import Image, ImageDraw

from picture_queue.local.simulator.scene import Format, PictureSpec, Scene
from picture_queue.local.simulator.shapes import Color, mix

_MAX_ANTIALIASED = 1_600_000  # pixels; larger pictures are drawn without antialiasing

MIME_TYPES: dict[Format, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpg": "image/jpeg",
    "svg": "image/svg+xml",
}


def draw(spec: PictureSpec) -> bytes:
    """Draw a picture.

    Args:
        spec: The specification. Equal specifications give equal bytes.
    """
    scene = Scene(spec)
    if spec.format == "svg":
        return _draw_svg(scene).encode()
    out = io.BytesIO()
    picture = _draw_image(scene)
    if spec.format == "png":
        picture.save(out, "PNG", compress_level=2)
    elif spec.format == "jpg":
        picture.convert("RGB").save(out, "JPEG", quality=spec.quality)
    else:
        picture.save(out, "WEBP", quality=spec.quality, method=0)
    return out.getvalue()


def _draw_image(scene: Scene) -> Image.Image:
    scale = 2 if scene.spec.width * scene.spec.height <= _MAX_ANTIALIASED else 1
    width, height = scene.spec.width * scale, scene.spec.height * scale
    if scene.spec.has_background:
        picture = _draw_sky(scene).resize((width, height), Image.Resampling.BILINEAR)
    else:
        picture = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(picture)
    side = min(width, height)
    for (x, y), radius, color in scene.discs():
        r = radius * side
        pen.ellipse((x * width - r, y * height - r, x * width + r, y * height + r), fill=color)
    for points, color in scene.shapes():
        pen.polygon([(x * width, y * height) for x, y in points], fill=color)
    picture = picture.reduce(scale)
    if scene.caption is not None:
        scene.caption.draw(picture)
    return picture


def _draw_svg(scene: Scene) -> str:
    width, height = scene.spec.width, scene.spec.height
    side = min(width, height)
    discs = "".join(
        f'<circle cx="{x * width:.1f}" cy="{y * height:.1f}" r="{radius * side:.1f}"'
        f' fill="{_hex(color)}"/>'
        for (x, y), radius, color in scene.discs()
    )
    shapes = "".join(
        '<polygon points="'
        + " ".join(f"{x * width:.1f},{y * height:.1f}" for x, y in points)
        + f'" fill="{_hex(color)}"/>'
        for points, color in scene.shapes()
    )
    sky = '<rect width="100%" height="100%" fill="url(#sky)"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}"><defs><linearGradient id="sky" x2="0" y2="1">'
        f'<stop stop-color="{_hex(scene.palette.zenith)}"/><stop offset="{scene.skyline:.3f}"'
        f' stop-color="{_hex(scene.palette.horizon)}"/></linearGradient></defs>'
        f"{sky if scene.spec.has_background else ''}{discs}{shapes}"
        f"{'' if scene.caption is None else scene.caption.svg()}</svg>"
    )


def _draw_sky(scene: Scene) -> Image.Image:
    # Drawing a small gradient and enlarging it is cheaper than drawing a large one.
    size = 128
    sky = Image.new("RGB", (1, size))
    for y in range(size):
        part = min(1.0, y / size / scene.skyline)
        sky.putpixel((0, y), mix(scene.palette.zenith, scene.palette.horizon, part))
    sky = sky.resize((size, size))
    aspect = scene.spec.width / scene.spec.height
    diameter = scene.sun_radius * 10 * size
    width, height = int(diameter / max(1.0, aspect)), int(diameter * min(1.0, aspect))
    glow = Image.radial_gradient("L").resize((max(width, 2), max(height, 2)))
    # Pillow's gradient has the level 181 at the middle of each edge. The glow ends at the
    # circle with this level, so that its square is not visible.
    glow = glow.point([round(150 * max(0.0, 1 - level / 181) ** 2) for level in range(256)])
    left, top = int(scene.sun[0] * size - width / 2), int(scene.sun[1] * size - height / 2)
    sky.paste(scene.palette.sun, (left, top, left + glow.width, top + glow.height), glow)
    return sky


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)

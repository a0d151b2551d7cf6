"""Copy the harmless parts of an SVG.

A browser that opens an SVG as a page runs the scripts in it with the origin of that page, and loads
the files that it refers to. Supabase Storage serves an SVG unchanged. So only listed elements and
attributes are copied, and only if their values refer to nothing outside the file. Everything else
is left out: scripts, event handlers, animations (they can change a link), foreign content, links,
style rules that load a file, metadata and comments. A file is refused if it declares entities, or
if it expands to too many elements when it is drawn.
"""

import base64
import binascii
import re
import string
from collections.abc import Iterator
from typing import Any, NoReturn
from xml.parsers import expat  # nosec B405 - entities are refused, and nothing external is read
from xml.sax.saxutils import escape, quoteattr  # nosec B406 - they only escape text

from picture_queue.generations.image_info import read_image
from picture_queue.generations.image_metadata import clean_image

MAX_BYTES = 10_000_000
# No other thread of Python runs while the parser reads a tag: a million attributes take 2 seconds.
# Attributes are counted only in tags of 50,000 bytes, since a shorter tag cannot have a harmful
# number of them.
_MAX_ATTRIBUTES = 2000
_LONG_TAG = re.compile(rb"<[^<]{50000,}+")
_MAX_FUNCTIONS = 500_000  # function calls, such as ``rgb(…)``, in all styles and attributes
_MAX_ELEMENTS = 250_000
_MAX_DEPTH = 100  # levels of elements
_MAX_REFERENCES = 20_000
# Elements to draw if each reference is replaced by its target, and levels of such references.
_MAX_EXPANDED = 1_000_000
_MAX_LEVELS = 30

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_XML = "http://www.w3.org/XML/1998/namespace"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: The elements whose text is copied.
_TEXT_ELEMENTS = _words("text tspan textPath title desc style")
_ELEMENTS = _TEXT_ELEMENTS | _words(
    """
    svg g defs symbol use switch view image path rect circle ellipse line polyline polygon
    linearGradient radialGradient stop pattern clipPath mask marker filter feBlend feColorMatrix
    feComponentTransfer feComposite feConvolveMatrix feDiffuseLighting feDisplacementMap
    feDistantLight feDropShadow feFlood feFuncA feFuncB feFuncG feFuncR feGaussianBlur feMerge
    feMergeNode feMorphology feOffset fePointLight feSpecularLighting feSpotLight feTile
    feTurbulence
    """
)
_ATTRIBUTES = _words(
    """
    class style role lang tabindex type media

    width height viewBox preserveAspectRatio version baseProfile x y x1 y1 x2 y2 cx cy r rx ry fx
    fy fr d points pathLength dx dy rotate textLength lengthAdjust startOffset method spacing side
    transform offset gradientUnits gradientTransform spreadMethod patternUnits patternContentUnits
    patternTransform clipPathUnits maskUnits maskContentUnits markerUnits markerWidth markerHeight
    refX refY orient filterUnits primitiveUnits

    in in2 result mode operator values k1 k2 k3 k4 stdDeviation radius order kernelMatrix divisor
    bias targetX targetY edgeMode kernelUnitLength preserveAlpha surfaceScale diffuseConstant
    specularConstant specularExponent limitingConeAngle azimuth elevation pointsAtX pointsAtY
    pointsAtZ z scale xChannelSelector yChannelSelector tableValues slope intercept amplitude
    exponent baseFrequency numOctaves seed stitchTiles

    alignment-baseline baseline-shift clip clip-path clip-rule color color-interpolation
    color-interpolation-filters color-rendering direction display dominant-baseline fill
    fill-opacity fill-rule filter flood-color flood-opacity font font-family font-size
    font-size-adjust font-stretch font-style font-variant font-weight image-rendering isolation
    letter-spacing lighting-color marker marker-end marker-mid marker-start mask mask-type
    mix-blend-mode opacity overflow paint-order pointer-events shape-rendering stop-color
    stop-opacity stroke stroke-dasharray stroke-dashoffset stroke-linecap stroke-linejoin
    stroke-miterlimit stroke-opacity stroke-width text-anchor text-decoration text-rendering
    transform-origin unicode-bidi vector-effect visibility white-space word-spacing writing-mode
    """
)
#: Functions in styles and attributes that load nothing. The function ``url`` is checked separately.
_FUNCTIONS = _words(
    """
    rgb rgba hsl hsla hwb lab lch oklab oklch color color-mix calc min max clamp var matrix matrix3d
    translate translatex translatey translatez translate3d scale scalex scaley scalez scale3d rotate
    rotatex rotatey rotatez rotate3d skew skewx skewy perspective path polygon circle ellipse inset
    blur brightness contrast drop-shadow grayscale hue-rotate invert opacity saturate sepia not is
    where nth-child nth-of-type nth-last-child
    """
)
_NAME_CHARACTERS = string.ascii_letters + string.digits + "-_"
_MAX_NAME = 40  # characters before a parenthesis that are read; the names in the list are shorter
_LOCAL_URL = re.compile(r"""\(\s*+(["']?)#([\w.:-]++)\1\s*+\)""")
_LOCAL_LINK = re.compile(r"\s*+#([\w.:-]++)\s*+")
_EMBEDDED = re.compile(r"\s*+data:image/(?:png|jpe?g|webp|gif);base64,([A-Za-z0-9+/=\s]*+)")


class UnsafeSvg(ValueError):
    """An SVG of which no harmless copy can be made."""


def clean_svg(data: bytes, max_pixels: int) -> bytes:
    """Return a copy of an SVG with only its harmless parts, in UTF-8.

    Args:
        data: The file.
        max_pixels: Maximum number of pixels of all embedded pictures.

    Raises:
        UnsafeSvg: The file is not well-formed, declares entities, or exceeds a limit.
    """
    if len(data) > MAX_BYTES:
        raise UnsafeSvg(f"the file has over {MAX_BYTES} bytes")
    if any(match[0].count(b"=") > _MAX_ATTRIBUTES for match in _LONG_TAG.finditer(data)):
        raise UnsafeSvg(f"an element has over {_MAX_ATTRIBUTES} attributes")
    return _Copier(max_pixels).run(data)


class _Element:
    """An element that is copied.

    Attributes:
        count: Number of elements in this element, including itself.
        references: The ids that this element and the elements in it refer to.
        style: The text of an element ``style``.
    """

    def __init__(self, name: str, id_: str) -> None:
        self.name = name
        self.id = id_
        self.count = 1
        self.references: list[str] = []
        self.style = ""


class _Copier:
    """A parser of one file that writes the harmless parts to a copy."""

    def __init__(self, max_pixels: int) -> None:
        self._out = bytearray()
        self._stack: list[_Element] = []  # the copied elements that have not ended
        self._skipped = 0  # number of elements that have not ended and are left out
        self._elements = 0
        self._references = 0
        self._functions = 0
        self._ids: set[str] = set()
        self._pixels_left = max_pixels
        self._by_id: dict[str, _Element] = {}
        self._root: _Element | None = None

    def run(self, data: bytes) -> bytes:
        parser: Any = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._refuse_entity
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise UnsafeSvg(f"the file is not well-formed XML: {error}") from None
        if self._root is None:
            raise UnsafeSvg("the file has no element svg")
        self._expect_bounded(self._root)
        return bytes(self._out)

    def _refuse_entity(self, *_: object) -> NoReturn:
        raise UnsafeSvg("the file declares entities")

    def _start(self, qualified: str, attributes: list[str]) -> None:
        namespace, _, name = qualified.rpartition(" ")
        self._elements += 1
        if self._elements > _MAX_ELEMENTS:
            raise UnsafeSvg(f"the file has over {_MAX_ELEMENTS} elements")
        if len(self._stack) + self._skipped >= _MAX_DEPTH:
            raise UnsafeSvg(f"the file is nested deeper than {_MAX_DEPTH} levels")
        is_root = not self._stack and not self._skipped
        if is_root and name != "svg":
            raise UnsafeSvg("the file has another root element than svg")
        in_text = bool(self._stack) and self._stack[-1].name in ("title", "desc", "style")
        if self._skipped or in_text or namespace not in ("", _SVG) or name not in _ELEMENTS:
            self._skipped += 1
            return
        pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
        id_ = pairs.get("id", "")
        # If several elements have the same id, viewers use the first. The others lose their id.
        element = _Element(name, "" if id_ in self._ids else id_)
        self._ids.add(id_)
        self._stack.append(element)
        copied = f' xmlns="{_SVG}"' if is_root else ""
        for key, value in self._harmless_attributes(element, pairs):
            copied += f" {key}={quoteattr(value)}"
        self._write(f"<{name}{copied}>")

    def _end(self, _: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        element = self._stack.pop()
        if element.style and self._is_harmless(element, "style", element.style):
            self._write(escape(element.style))
        self._write(f"</{element.name}>")
        if element.id:
            self._by_id[element.id] = element
        if self._stack:
            self._stack[-1].count += element.count
            self._stack[-1].references += element.references
        else:
            self._root = element

    def _text(self, text: str) -> None:
        if self._skipped or not self._stack or self._stack[-1].name not in _TEXT_ELEMENTS:
            return
        if self._stack[-1].name == "style":
            self._stack[-1].style += text
        else:
            self._write(escape(text))

    def _write(self, text: str) -> None:
        self._out += text.encode("utf-8", "replace")

    def _harmless_attributes(
        self, element: _Element, pairs: dict[str, str]
    ) -> Iterator[tuple[str, str]]:
        for qualified, value in pairs.items():
            namespace, _, name = qualified.rpartition(" ")
            if name == "href" and namespace in ("", _XLINK):
                link = self._harmless_link(element, value)
                if link is not None:
                    yield "href", link
            elif namespace == _XML and name in ("space", "lang"):
                yield f"xml:{name}", value
            elif name == "id" and not namespace:
                if element.id:
                    yield name, value
            elif not namespace and name in _ATTRIBUTES and self._is_harmless(element, name, value):
                yield name, value

    def _harmless_link(self, element: _Element, link: str) -> str | None:
        if local := _LOCAL_LINK.fullmatch(link):
            self._add_references(element, [local[1]])
            return link.strip()
        embedded = _EMBEDDED.fullmatch(link) if element.name == "image" else None
        return None if embedded is None else self._embed(embedded[1])

    def _embed(self, encoded: str) -> str | None:
        """Return an embedded picture without its metadata; None if it is not a picture."""
        try:
            data = base64.b64decode("".join(encoded.split()), validate=True)
            info = read_image(data)
            if info is None or info.extension == "svg":
                return None
            cleaned = clean_image(data, info.extension)
        except (binascii.Error, ValueError):
            return None
        self._pixels_left -= info.pixels * cleaned.frames
        if self._pixels_left < 0:
            raise UnsafeSvg("the pictures in the file have too many pixels")
        content = base64.b64encode(b"".join(cleaned.chunks(data))).decode()
        return f"data:{info.mime_type};base64,{content}"

    def _is_harmless(self, element: _Element, name: str, style: str) -> bool:
        """Return whether a style or an attribute loads nothing; record its references."""
        if name != "style" and "(" not in style:
            return True
        self._functions += style.count("(")
        if self._functions > _MAX_FUNCTIONS:
            raise UnsafeSvg(f"the file has over {_MAX_FUNCTIONS} functions")
        targets = _references(style)
        self._add_references(element, targets or [])
        return targets is not None

    def _add_references(self, element: _Element, targets: list[str]) -> None:
        self._references += len(targets)
        if self._references > _MAX_REFERENCES:
            raise UnsafeSvg(f"the file has over {_MAX_REFERENCES} references")
        element.references += targets

    def _expect_bounded(self, root: _Element) -> None:
        """Check how many elements are drawn if each reference is replaced by its target."""
        sizes = {name: element.count for name, element in self._by_id.items()}

        def expand(element: _Element) -> int:
            size = element.count + sum(sizes.get(name, 0) for name in element.references)
            if size > _MAX_EXPANDED:
                raise UnsafeSvg(f"the file expands to over {_MAX_EXPANDED} elements")
            return size

        for _ in range(_MAX_LEVELS):
            expanded = {name: expand(element) for name, element in self._by_id.items()}
            expand(root)
            if expanded == sizes:
                return
            sizes = expanded
        raise UnsafeSvg(f"the references in the file have over {_MAX_LEVELS} levels, or a cycle")


def _references(style: str) -> list[str] | None:
    """Return the ids that a style or an attribute refers to; None if it may load something."""
    if any(character in style for character in "\\@<"):
        return None
    targets = []
    at = style.find("(")
    while at >= 0:
        before = style[max(0, at - _MAX_NAME) : at].rstrip()
        name = before[len(before.rstrip(_NAME_CHARACTERS)) :].lower()
        if name == "url":
            local = _LOCAL_URL.match(style, at)
            if local is None:
                return None
            targets.append(local[2])
        elif name and name not in _FUNCTIONS:
            return None
        at = style.find("(", at + 1)
    return targets

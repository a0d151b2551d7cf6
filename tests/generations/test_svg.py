"""The copy of the harmless parts of an SVG, and the refusal of SVGs that expand."""

import base64
import io
import threading
import time
from xml.etree import ElementTree

import pytest
from PIL import Image

from picture_queue.generations.image_info import read_image
from picture_queue.generations.svg import UnsafeSvg, clean_svg
from picture_queue.local.simulator.pictures import draw
from picture_queue.local.simulator.scene import PictureSpec

SVG = "http://www.w3.org/2000/svg"
XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
MAX_PIXELS = 10**8


def clean(inner: str, attributes: str = "") -> str:
    """Return the content of the cleaned root element."""
    data = f'<svg xmlns="{SVG}" {attributes}>{inner}</svg>'.encode()
    out = clean_svg(data, MAX_PIXELS).decode()
    ElementTree.fromstring(out)  # raises an error if the copy is not well-formed
    return out.removeprefix(f'<svg xmlns="{SVG}"').removesuffix("</svg>").partition(">")[2]


HARMLESS = [
    '<path d="M0 0L1 1Z" fill="#fff" stroke-width="2" transform="translate(1 2) rotate(3)"></path>',
    '<linearGradient id="a"><stop offset="0" stop-color="rgb(1,2,3)"></stop></linearGradient>',
    '<g id="b" fill="url(#a)" style="fill:url(#a);stroke:red"><circle cx="1" r="3"></circle></g>',
    '<use href="#b"></use>',
    "<style>.a{fill:rgba(0,0,0,.5)} .b{clip-path:url(#c)}</style>",
    '<text x="1" font-family="Arial">a &lt; b &amp; c</text>',
    "<title>A fox</title>",
    '<filter id="f"><feGaussianBlur stdDeviation="2"></feGaussianBlur></filter>',
    '<clipPath id="c"><rect width="1" height="1"></rect></clipPath>',
]


@pytest.mark.parametrize("part", HARMLESS)
def test_harmless_parts_are_kept(part: str) -> None:
    assert clean(part) == part


@pytest.mark.parametrize(
    ("part", "kept"),
    [
        ("<script>alert(1)</script>", ""),
        ('<script href="//evil.example/x.js"/>', ""),
        ('<g onload="x()" onclick="y()"/>', "<g></g>"),
        ("<foreignObject><b xmlns='http://www.w3.org/1999/xhtml'/></foreignObject>", ""),
        ('<a href="javascript:x()"><rect/></a>', ""),
        (f'<a {XLINK} xlink:href="javascript:x()"><rect/></a>', ""),
        ('<iframe src="//evil.example"/>', ""),
        ('<animate attributeName="href" values="javascript:x()"/>', ""),
        ('<set attributeName="onload" to="x()"/>', ""),
        ('<image href="http://evil.example/a.png"/>', "<image></image>"),
        ('<image href="data:image/svg+xml;base64,PHN2Zy8+"/>', "<image></image>"),
        ('<image href="data:image/png;base64,PHN2Zy8+"/>', "<image></image>"),
        ('<use href="http://evil.example/a.svg#x"/>', "<use></use>"),
        ('<use href="data:image/svg+xml,&lt;svg/>#x"/>', "<use></use>"),
        (f'<use {XLINK} xlink:href="#b"/>', '<use href="#b"></use>'),
        ('<g fill="url(http://evil.example#a)"/>', "<g></g>"),
        ('<g fill="url( \'#a\' )"/>', "<g fill=\"url( '#a' )\"></g>"),
        ('<g style="background:url(//evil.example)"/>', "<g></g>"),
        ('<g style="fill:u\\72l(//evil.example)"/>', "<g></g>"),
        # A comment ends the name `url`. So CSS reads no function call here, and loads nothing.
        ('<g style="fill:url/**/(//evil)"/>', '<g style="fill:url/**/(//evil)"></g>'),
        ('<g style="fill:image-set(\'//evil.example\' 1x)"/>', "<g></g>"),
        ('<g style="fill:URL(//evil.example)"/>', "<g></g>"),
        ("<style>@import '//evil.example';</style>", "<style></style>"),
        ("<style>a{b:src('//evil.example')}</style>", "<style></style>"),
        ("<style>a{behavior:expression(x())}</style>", "<style></style>"),
        ("<style><![CDATA[a>b{fill:red}]]></style>", "<style>a&gt;b{fill:red}</style>"),
        ("<metadata>Ada, Berlin</metadata>", ""),
        ("<!-- made by Ada -->", ""),
        ("<?xml-stylesheet href='//evil.example'?>", ""),
        ('<g xmlns:i="http://ns.adobe.com/x" i:layer="yes" data-name="a"/>', "<g></g>"),
        ('<g xmlns="http://www.w3.org/1999/xhtml"><rect/></g>', ""),
        ('<handler xmlns="http://www.w3.org/2001/xml-events"/>', ""),
        ("<title><script>x()</script>A fox</title>", "<title>A fox</title>"),
        ('<g id="a"/><g id="a"/>', '<g id="a"></g><g></g>'),
    ],
)  # fmt: skip
def test_parts_that_can_run_code_or_load_files_are_removed(part: str, kept: str) -> None:
    assert clean(part) == kept


@pytest.mark.parametrize(
    "data",
    [
        f'<s:svg xmlns:s="{SVG}" width="4" height="3"><s:rect/></s:svg>',
        '<svg width="4" height="3"><rect/></svg>',
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "a" "b">'
        f'<svg xmlns="{SVG}" width="4" height="3"><rect/></svg>',
        f'\ufeff<svg xmlns="{SVG}" width="4" height="3" onload="x()"><rect/></svg>',
    ],
)
def test_the_copy_is_a_plain_svg(data: str) -> None:
    out = clean_svg(data.encode(), 1)
    assert out == f'<svg xmlns="{SVG}" width="4" height="3"><rect></rect></svg>'.encode()
    info = read_image(out)
    assert info is not None
    assert (info.mime_type, info.width, info.height) == ("image/svg+xml", 4, 3)


def test_a_file_in_another_encoding_is_written_in_utf_8() -> None:
    data = f'<?xml version="1.0" encoding="UTF-16"?><svg xmlns="{SVG}"><title>Füchse</title></svg>'
    assert "Füchse".encode() in clean_svg(data.encode("utf-16"), 1)


def png(side: int) -> str:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    Image.new("RGB", (side, side), "red").save(out, "PNG", exif=exif)
    return base64.b64encode(out.getvalue()).decode()


def test_an_embedded_picture_is_kept_without_its_metadata() -> None:
    out = clean(f'<image width="9" href="data:image/png;base64,{png(9)}"/>')
    embedded = base64.b64decode(out.partition("base64,")[2].partition('"')[0])
    assert b"SECRET" not in embedded
    assert Image.open(io.BytesIO(embedded)).size == (9, 9)


def test_the_pixels_of_embedded_pictures_are_limited() -> None:
    data = f'<svg xmlns="{SVG}">' + f'<image href="data:image/png;base64,{png(100)}"/>' * 3
    with pytest.raises(UnsafeSvg, match="too many pixels"):
        clean_svg(f"{data}</svg>".encode(), 3 * 100 * 100 - 1)


def nested(levels: int, times: int) -> str:
    """Return groups that each refer to the previous group a number of times."""
    groups = [
        f'<g id="g{n}">' + f'<use href="#g{n - 1}"/>' * times + "</g>" for n in range(1, levels)
    ]
    return f'<g id="g0"><rect/></g>{"".join(groups)}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "declares entities"),
        ('<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>', "entities"),
        ('<!DOCTYPE svg [<!ENTITY % a SYSTEM "http://evil.example">%a;]><svg/>', "entities"),
        ("<svg><g></svg>", "not well-formed"),
        ("<svg/><svg/>", "not well-formed"),
        ("<html><svg/></html>", "another root element"),
        (f"<svg>{'<g>' * 200}", "nested deeper"),
        (f"<svg>{'<x>' * 200}", "nested deeper"),
        (f"<svg>{'<g/>' * 300_000}</svg>", "250000 elements"),
        (f"<svg>{nested(12, 10)}</svg>", "expands to"),
        (f"<svg>{nested(40, 1)}</svg>", "levels"),
        ('<svg><g id="a"><use href="#a"/></g></svg>', "cycle"),
        ("<svg>" + '<use href="#a"/>' * 30_000 + "</svg>", "20000 references"),
        (f'<svg><g style="{"(" * 600_000}"/></svg>', "500000 functions"),
        ("<svg " + " ".join(f"a{n}=''" for n in range(20_000)) + "/>", "2000 attributes"),
        (f"<svg>{' ' * 10_000_000}</svg>", "10000000 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_invalid_file_or_a_file_beyond_a_limit_is_refused(data: str, reason: str) -> None:
    started_at = time.thread_time()
    with pytest.raises(UnsafeSvg, match=reason):
        clean_svg(data.encode(), MAX_PIXELS)
    assert time.thread_time() - started_at < 4


@pytest.mark.parametrize(
    "data",
    [
        f'<svg style="{"a" * 9_000_000}"/>',
        f'<svg style="{" " * 9_000_000}("/>',
        f'<svg><path d="{"1,2 " * 2_000_000}"/></svg>',
        f"<svg><text>{'a&lt;' * 1_500_000}</text></svg>",
        f"<svg><!--{'-a' * 4_000_000}--></svg>",
        "<svg>" + '<path d="M0 0Z" fill="rgb(1,2,3)"/>' * 200_000 + "</svg>",
    ],
    ids=lambda value: value[:20],
)
def test_other_threads_run_while_a_large_file_is_copied(data: str) -> None:
    # The processor time of the copying thread between two turns of the other thread. Other programs
    # of the machine do not lengthen it, unlike a time of the clock.
    longest_turn, done = 0.0, threading.Event()
    clock = time.pthread_getcpuclockid(threading.get_ident())

    def measure() -> None:
        nonlocal longest_turn
        last = time.clock_gettime(clock)
        while not done.wait(0.001):
            now = time.clock_gettime(clock)
            longest_turn, last = max(longest_turn, now - last), now

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        clean_svg(data.encode(), 1)
    finally:
        done.set()
        thread.join()
    assert longest_turn < 1.0  # usually 0.2 s; a million attributes would take 2 s


def test_a_picture_of_the_simulator_keeps_all_its_elements() -> None:
    data = draw(PictureSpec("a fox", 7, 256, 256, "svg"))
    before, after = ElementTree.fromstring(data), ElementTree.fromstring(clean_svg(data, 1))
    assert [e.tag for e in before.iter()] == [e.tag for e in after.iter()]

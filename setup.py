"""What setup.cfg cannot say: the README as PyPI shows it, where links and pictures have to be absolute, and that wheels
hold nothing that an earlier build has left behind.
"""

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup


def absolute(text: str, repository: str) -> str:
    """Makes links to files of the repository absolute in a Markdown text.

    Args:
        text: Links and pictures in it are `[text](path)` and `![text](path)`.
        repository: Its address.
    """

    def link(match: "re.Match[str]") -> str:
        picture, label, path = match.groups()
        return f"{picture}[{label}]({repository}/{'raw' if picture else 'blob'}/HEAD/{path})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", link, text)


if __name__ == "__main__":
    root = Path(__file__).parent
    shutil.rmtree(root / "build" / "lib", ignore_errors=True)  # setuptools keeps there what has been removed since
    config = ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    urls = dict(line.split(" = ") for line in config["metadata"]["project_urls"].strip().splitlines())
    setup(long_description=absolute((root / "README.md").read_text(encoding="utf-8"), urls["Source"]))

"""What the documents say leads somewhere: their links, and the commands in them."""

import contextlib
import io
import re
import shlex
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from spectral_backbones.__main__ import COMMANDS
from spectral_backbones.engine.library import find_config

from .classification_fixtures import ROOT, load_tool

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "configs/**/*.md")
    for path in ROOT.glob(pattern)
)
PLACEHOLDER = "CONFIG"


def tokens(text):
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or []


def links(text):
    """Where the links and pictures of a Markdown text lead."""
    found = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(text)]
    return [target for target in found if target]


def headings(text):
    """The anchors of a Markdown text, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def commands(text):
    """The arguments of each `spectral` in a Markdown text, in blocks of code and between backticks."""
    code = [token.content for token in tokens(text) if token.type in ("fence", "code_block", "code_inline")]
    for line in "\n".join(code).replace("\\\n", " ").split("\n"):
        found = re.match(r"(?:torchrun .*-m spectral_backbones|spectral) (.*)", line.strip())
        if found:
            yield shlex.split(found[1], comments=True)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in links((ROOT / page).read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            assert heading in headings(file.read_text()), target


@pytest.fixture(scope="module")
def options():
    """The options of each command, as its help lists them."""

    def listed(command):
        with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
            load_tool(command.replace("-", "_")).main(["--help"])
        return set(re.findall(r"--[a-z][a-z0-9-]*", text.getvalue()))

    return {command: listed(command) for command in COMMANDS if command != "run"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_their_options_and_configs_are_there(page, options):
    for command, *arguments in commands((ROOT / page).read_text()):
        if command in ("--help", "--version"):
            continue
        if command.endswith(".py"):  # a script, as `run` takes it
            continue
        assert command in COMMANDS, command
        if command == "run":
            continue
        named = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert named <= options[command] | {"--help"}, (command, arguments)
        configs = [value for option, value in pairwise(arguments) if option == "--config"]
        if command in ("train", "test"):
            configs += arguments[:1]
        for config in configs:
            if config != PLACEHOLDER and not config.startswith("-") and not config.endswith(".py"):
                find_config(config)


def test_the_readme_shows_the_commands_that_there_are():
    shown = {command for command, *_ in commands((ROOT / "README.md").read_text())}
    assert {"train", "test", "predict", "flops", "benchmark", "models", "configs", "run"} <= shown

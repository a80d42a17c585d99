"""What the documents say holds: their links lead somewhere, their Python runs, their commands are parsed by the tools,
their pictures are made by the commands beside them, and they build as a site.

Python is found by Sybil. The blocks of a page run in one namespace, as a reader would type them, in a copy of this
process, since they register models and mixers. A block that needs a package which may be absent, or a download, is
marked in the page by a comment, `skip: next if(not has("lightning"), reason="...")`. The end of the tests' output
counts both kinds.
"""

import argparse
import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import traceback
from configparser import ConfigParser
from itertools import pairwise
from unittest import SkipTest
from unittest.mock import patch

import pytest
import timm
import torch
from markdown_it import MarkdownIt
from PIL import Image
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from torch.distributed.run import parse_args as parse_torchrun

from spectral_backbones.__main__ import COMMANDS
from spectral_backbones.engine.config import load
from spectral_backbones.engine.library import find_config
from spectral_backbones.tools import docs, model_table, models

from .classification_fixtures import ROOT, load_tool

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "configs/**/*.md")
    for path in ROOT.glob(pattern)
)
DOCS = [page for page in PAGES if page == "README.md" or page.startswith("docs/")]
PLACEHOLDER = "CONFIG"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


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


# Links ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in links(text_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            assert heading in headings(file.read_text()), target
        if page.startswith("docs/"):
            assert (ROOT / "docs") in file.resolve().parents, f"{target} is no part of the site"


def test_the_readme_leads_to_every_page():
    for page in DOCS:
        assert page in ("README.md", "docs/changelog.md") or page in links(text_of("README.md")), page


# The site -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A copy of what the site is made of."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_the_site_is_built_strictly(site):
    done = docs.build(site)
    assert done.returncode == 0, done.stdout
    pages = {path.with_suffix(".md").name for path in (site / "site").glob("*.html")}
    assert {f"docs/{name}" for name in pages - {"404.md"}} == {page for page in DOCS if page != "README.md"}
    reference = (site / "site" / "api.html").read_text(encoding="utf-8")
    for name in re.findall(r"^::: (\S+)", text_of("docs/api.md"), re.MULTILINE):
        assert f'id="{name}"' in reference, name
    assert "### Added" not in (site / "site" / "changelog.html").read_text(encoding="utf-8")
    assert 'id="added"' in (site / "site" / "changelog.html").read_text(encoding="utf-8")
    # What is wrong ends it: a page, a heading and a name of the code that are not there.
    index = site / "docs" / "index.md"
    right = index.read_text(encoding="utf-8")
    index.write_text(f"{right}\n[a](no.md), [b](models.md#no), [c][spectral_backbones.no]\n", encoding="utf-8")
    done = docs.build(site)
    index.write_text(right, encoding="utf-8")
    assert done.returncode and "3 issues found" in done.stdout, done.stdout


def test_every_page_is_in_the_menu():
    menu = re.findall(r"^ +- .*?([\w-]+\.md)$", text_of("mkdocs.yml"), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in menu) == [page for page in DOCS if page != "README.md"]


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed, which shows the table of models")
def test_the_table_of_models_is_sorted_and_filtered(site):
    if not (site / "site" / "models.html").is_file():
        assert docs.build(site).returncode == 0

    def names(query):
        address = f"{(site / 'site' / 'models.html').as_uri()}?{query}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
        done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, timeout=60)
        table = done.stdout[done.stdout.index('class="choose-fields"') :].partition("</table>")[0]
        return re.findall(r"<td[^>]*><code>(\w+)</code>", table)

    rows = {record["model"]: record for record in models.records()}
    chosen = names("params+(M)=30&UPerNet+(mIoU)=40&licence=apache-2.0&sort_down=UPerNet+(mIoU)")
    expected = [name for name, dense in model_table.DENSE.items() if dense.upernet and rows[name]["params"] <= 30e6]
    expected = [name for name in expected if rows[name]["license"] == "apache-2.0"]
    expected.sort(key=lambda name: -float(model_table.DENSE[name].upernet.split(" ")[0]))
    assert chosen == expected and len(expected) > 2
    by_cost = names("sort=MACs+(G)")
    assert by_cost == sorted(rows, key=lambda name: round(rows[name]["macs"] / 1e9, 2))


# Python ---------------------------------------------------------------------------------------------------------------

SYBIL = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], path=str(ROOT))
OF_PYTHON = [page for page in DOCS if "```python" in text_of(page)]
MOST_LINES = {"docs/add-a-mixer.md": 60, "docs/add-a-backbone.md": 150}  # what is held up as short


def has(package):
    return importlib.util.find_spec(package) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages take as given: a photograph, and checkpoints, with weights that nobody has trained."""
    folder = tmp_path_factory.mktemp("reader")
    Image.new("RGB", (320, 240), "white").save(folder / "photo.jpg")
    (folder / "work_dirs" / "run").mkdir(parents=True)
    torch.save(timm.create_model("gfnet_xs").state_dict(), folder / "gfnet-xs.pth")
    fine_tuned = timm.create_model("gfnet_xs", num_classes=3).state_dict()
    torch.save({"state_dict_ema": fine_tuned}, folder / "work_dirs" / "run" / "best.pth")
    return folder


def run_blocks(page, folder, report):
    """Runs the blocks of a page in a folder; reports how many ran, which were left out, and why it ended."""
    ran, left_out = 0, []
    try:
        os.chdir(folder)
        document = SYBIL.parse(ROOT / page)
        document.namespace.update(has=has)
        for example in document:
            try:
                example.evaluate()
            except SkipTest as reason:
                left_out.append(f"{page}:{example.line} {reason}")
            else:
                if isinstance(example.parsed, str):  # and no mark
                    check_config(example.parsed)
                    ran += 1
    except BaseException:
        report.send((ran, left_out, traceback.format_exc()))
    else:
        report.send((ran, left_out, ""))
    os._exit(0)


def check_config(code):
    """A block that inherits from a config is one, and so do those that it inherits from exist."""
    if code.startswith("_base_"):
        with open("config.py", "w", encoding="utf-8") as file:
            file.write(code)
        assert load("config.py").model


SLOW = ("docs/export.md", "docs/volumes.md")  # a model as ONNX, and one that is trained


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in OF_PYTHON]
)
def test_python_blocks_run(page, folder, record_property):
    given, taken = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run_blocks, args=(page, folder, taken))
    process.start()
    taken.close()
    ran, left_out, error = given.recv()
    process.join()
    assert not error, error
    assert ran + len(left_out) == text_of(page).count("```python")
    record_property("python_blocks", (ran, left_out))


@pytest.mark.parametrize("page", DOCS)
def test_no_python_goes_by_another_name(page):
    """Which would not run."""
    for token in tokens(text_of(page)):
        if token.type == "fence" and token.info != "python":
            assert not re.match(r"i?py", token.info), token.info
            assert not re.search(r"^(import|from) \w", token.content, re.MULTILINE), token.content


@pytest.mark.parametrize("page", MOST_LINES)
def test_what_is_held_up_as_short_is_short(page):
    (code,) = re.findall(r"```python\n(.*?)```", text_of(page), flags=re.DOTALL)
    assert len(code.splitlines()) < MOST_LINES[page]


# Commands -------------------------------------------------------------------------------------------------------------


def commands(text):
    """The arguments of each `spectral` in a Markdown text, in blocks of code and between backticks."""
    for line in lines_of_code(text, ("fence", "code_block", "code_inline")):
        found = re.match(r"(?:torchrun .*-m spectral_backbones|spectral) (.*)", line)
        if found:
            yield shlex.split(found[1], comments=True)


def lines_of_code(text, kinds=("fence", "code_block")):
    code = [token.content for token in tokens(text) if token.type in kinds]
    return [line.strip() for line in "\n".join(code).replace("\\\n", " ").split("\n")]


class Parsed(BaseException):
    """A tool has parsed its arguments; more is not asked of it."""


def parse(command, arguments):
    """Lets a tool parse its arguments; it says what is wrong with them."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *given):
        parse_args(self, *given)
        raise Parsed

    said = io.StringIO()
    with (
        patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        try:
            load_tool(command.replace("-", "_")).main(arguments)
        except Parsed:
            return
        except SystemExit as end:
            if end.code == 0:  # --help
                return
    pytest.fail(f"spectral {shlex.join([command, *arguments])}: {said.getvalue().strip().splitlines()[-1]}")


@functools.cache
def options(command):
    """The options of a command, as its help lists them."""
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        load_tool(command.replace("-", "_")).main(["--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]*", text.getvalue()))


@pytest.mark.parametrize("page", PAGES)
def test_commands_their_options_and_configs_are_there(page):
    for command, *arguments in commands(text_of(page)):
        if command in ("--help", "--version"):
            continue
        if command.endswith(".py"):  # a script, as `run` takes it
            continue
        assert command in COMMANDS, command
        if command == "run":
            continue
        named = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert named <= options(command) | {"--help"}, (command, arguments)
        configs = [value for option, value in pairwise(arguments) if option == "--config"]
        if command in ("train", "test"):
            configs += arguments[:1]
        for config in configs:
            if config != PLACEHOLDER and not config.startswith("-") and not config.endswith(".py"):
                find_config(config)


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_command_is_parsed_by_what_it_calls(page):
    extras = ConfigParser()
    extras.read(ROOT / "setup.cfg", encoding="utf-8")
    for line in lines_of_code(text_of(page)):
        words = shlex.split(line, comments=True) if re.match(r"(spectral|torchrun|python|make|pip) ", line) else []
        if words[:1] == ["torchrun"]:
            call = parse_torchrun(words[1:])  # torch's own
            assert call.module, line
            words = ["spectral", *call.training_script_args] if call.training_script == "spectral_backbones" else []
        if words[:1] == ["python"] and words[1].startswith("tools/"):
            words = ["spectral", words[1].removeprefix("tools/").removesuffix(".py"), *words[2:]]
        if words[:1] == ["spectral"]:
            command, *arguments = words[1:]
            script = arguments if command == "run" else [command] if command.endswith(".py") else []
            if script:  # somebody else's, which knows our models
                named = [value for option, value in pairwise(arguments) if option == "--model"]
                assert named and all(map(timm.is_model, named)), line
            elif not command.startswith("--"):
                parse(command, arguments)
        for target in [word for word in words[1:] if "=" not in word] if words[:1] == ["make"] else []:
            assert re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE), line
        if words[:1] == ["pip"]:
            for named in re.findall(r"\[([\w,]+)\]", line):
                assert set(named.split(",")) <= set(extras["options.extras_require"]), line


def test_the_readme_shows_the_commands_that_there_are():
    shown = {command for command, *_ in commands(text_of("README.md"))}
    assert {"train", "test", "predict", "flops", "benchmark", "models", "configs", "run"} <= shown


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", DOCS)
def test_every_picture_is_made_by_a_command_on_its_page(page):
    """One that names the picture or its folder, or whose tool does."""
    text = text_of(page)
    shown = lines_of_code(text, ("fence", "code_block", "code_inline"))
    pictures = [target for target in links(text) if re.search(r"\.(png|jpg|svg|webp)$", target)]
    for picture in pictures:
        name = picture.rpartition("/")[2]
        makers = []
        for line in shown:
            found = re.match(r"(?:spectral|python tools/)\s?([\w-]+)(?:\.py)? (.*)", line)
            if found and (name in found[2] or "docs/images" in found[2] or name in source_of(found[1])):
                makers.append(line)
        assert makers, f"no command of {page} makes {picture}"


def source_of(tool):
    path = ROOT / "tools" / f"{tool.replace('-', '_')}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_every_picture_is_shown():
    shown = {target.rpartition("/")[2] for page in DOCS for target in links(text_of(page))}
    assert {path.name for path in (ROOT / "docs" / "images").iterdir()} <= shown


# What single pages promise --------------------------------------------------------------------------------------------


def test_messages_of_the_page_of_troubles_are_messages_of_the_code():
    texts = []
    for room in ("spectral_backbones", "backbones", "classification", "detection", "engine", "segmentation", "tools"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    code = "\n".join(texts)
    messages = re.findall(r"^\*\*`(.+?)`", text_of("docs/troubleshooting.md"), re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        for part in message.removeprefix("error: ").split("..."):
            assert part.strip(" :;,") in code, (message, part)


def test_every_paper_can_be_cited():
    page = text_of("docs/citing.md")
    for name, family in model_table.FAMILIES.items():
        assert page.count(family.arxiv) >= 3, name  # the link, its address and the entry

"""How values of a config are read from a command line."""

import pytest

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load

from .classification_fixtures import load_tool

arguments = load_tool("arguments.py")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("true", True),
        ("None", None),
        ("red", "red"),
        ("'1'", "1"),
        ("/my data/of today", "/my data/of today"),
        ("{:04d}.png", "{:04d}.png"),
        ("it's", "it's"),
        ("a,b", ["a", "b"]),
        ("1,2,", [1, 2]),
        ("[a,b]", ["a", "b"]),
        ("(1,2)", (1, 2)),
        ("(1)", (1,)),
        ("[(1, 2, 3), [a, b], c]", [(1, 2, 3), ["a", "b"], "c"]),
        ("[true,dict(a=1)]", [True, {"a": 1}]),
        ("[dict(type='A'),dict(type='B', scale=(64,64))]", [{"type": "A"}, {"type": "B", "scale": (64, 64)}]),
        ("{'a':{'b':[1,{'c':None}]}}", {"a": {"b": [1, {"c": None}]}}),
    ],
)
def test_values_are_read_as_in_a_config_file(text, value):
    read = arguments.config_value(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[dict(type=X)]", r"dict\(type=X\) is no Python value: put quotes around texts"),
        ("{a:1,b:2}", "is no Python value"),
        ("Resize(1,2)", "is no Python value"),
        ("[1,2", r"has a '\[' that is not closed"),
        ("[1,2)", r"has a '\)' that nothing opens"),
        ("{1,2}", "is a set, which has no order"),
    ],
)
def test_what_is_no_value_is_told(text, says):
    with pytest.raises(ValueError, match=says):
        arguments.config_value(text)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("model.name", "--cfg-options takes key.key=value, got 'model.name'"),
        ("=3", "--cfg-options takes key.key=value, got '=3'"),
        ("model.kwargs=[dict(type=X)]", "--cfg-options model.kwargs: dict(type=X) is no Python value"),
    ],
)
def test_the_command_ends_with_what_is_wrong(given, says, capsys):
    for tool in (["train.py", "x.py"], ["test.py", "x.py", "x.pth"]):
        with pytest.raises(SystemExit):
            load_tool(tool[0]).main([*tool[1:], "--cfg-options", given])
        assert says in capsys.readouterr().err


def test_an_option_through_what_has_no_parts_is_told(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("steps = [dict(type='A')]")
    assert load(str(config), {"steps.0.type": "B", "custom_hooks": [{"a": 1}]}).custom_hooks[0].a == 1
    with pytest.raises(UserError, match=r"the options steps\.5\.type do not fit config"):
        load(str(config), {"steps.5.type": "B"})

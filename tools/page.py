"""One HTML page of pictures and figures that needs no other file."""

import base64
import mimetypes
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from jinja2 import Environment


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        path: Its file, which the page will hold.
        caption: What it shows.
    """

    path: Path
    caption: str


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        title: Its heading.
        text: What was done.
        figures: Values as they are shown, by their names.
        commands: How to get there.
        pictures: In the order in which they are shown.
    """

    title: str
    text: str
    figures: Dict[str, str]
    commands: Sequence[str]
    pictures: Sequence[Picture]


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { max-width: 72rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
nav a { margin-right: 1rem; }
section { margin: 2.5rem 0; }
table { border-collapse: collapse; }
th, td { padding: .15rem 1.2rem .15rem 0; text-align: left; font-weight: normal; }
td { font-weight: bold; }
pre { padding: .6rem; overflow-x: auto; background: #8882; border-radius: .3rem; }
.pictures {
  display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr));
}
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }
figcaption { font-size: .9rem; }
</style>
<h1>{{ title }}</h1>
<p>{{ text }}</p>
<nav>{% for part in sections %}<a href="#{{ part.title }}">{{ part.title }}</a>{% endfor %}</nav>
{% for part in sections %}
<section id="{{ part.title }}">
<h2>{{ part.title }}</h2>
<p>{{ part.text }}</p>
<table>{% for name, value in part.figures.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<pre>{{ part.commands | join("\\n") }}</pre>
<div class="pictures">
{% for picture in part.pictures %}
<figure{% if picture.path.parent.name != "predictions" %} class="wide"{% endif %}>
<img src="{{ embedded(picture.path) }}" alt="{{ picture.caption }}" loading="lazy">
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% endfor %}
</div>
</section>
{% endfor %}
</html>
"""


def embedded(path: Path) -> str:
    """A file as an address that holds it."""
    kind = mimetypes.guess_type(path.name)[0]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write_page(path: Path, title: str, text: str, sections: List[Section]) -> None:
    """Writes the page.

    Args:
        path: Its file.
        title: Its heading.
        text: What stands below.
        sections: One below the other.
    """
    template = Environment(autoescape=True).from_string(_PAGE)
    page = template.render(title=title, text=text, sections=sections, embedded=embedded)
    path.write_text(page, encoding="utf-8")

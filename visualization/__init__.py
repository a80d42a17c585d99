"""What models look at, as arrays and as pictures. `spectral visualize` is the command.

A file for each kind of picture: a function that computes arrays, which is what notebooks and tests call, and one that
draws them. `recording` runs a model once and keeps what the kinds need; `sheet` lays pictures out, `page` makes the one
of HTML.
"""

if __name__ == "visualization":  # imported by its bare name, in a clone's root
    from spectral_backbones import clone

    clone.alias(__name__)

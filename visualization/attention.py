"""Attention weights, and where on the picture their queries and keys are."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .photo import Photo
from .sheet import Map, Sheet, counted, short, some_of

Grid = Tuple[int, int]
OUTSIDE, CLASS_TOKEN = -1, -2  # in place of a cell: padding, and tokens that are at no place
_NOTHING = 1e-12  # shares below it are of keys that a mask has taken out


class Attention(NamedTuple):
    """The weights of one layer for one picture. Queries of a group attend to the keys of that group: all to all where
    there is one group, within windows, rows or patches where there are more.

    Attributes:
        layer: Name of the module that they are of.
        kind: What sort of attention it is, for people.
        weights: Shares (groups, heads, queries, keys).
        queries: Which cell of their grid the queries are, row by row, (groups, queries), OUTSIDE or CLASS_TOKEN.
        keys: Likewise, (groups, keys).
        query_grid: Rows and columns of the cells that cover the picture.
        key_grid: Likewise.
    """

    layer: str
    kind: str
    weights: Tensor
    queries: Tensor
    keys: Tensor
    query_grid: Grid
    key_grid: Grid

    @property
    def num_heads(self) -> int:
        """How many heads there are."""
        return self.weights.shape[1]

    @property
    def is_square(self) -> bool:
        """Whether all tokens attend to all tokens, by shares of one, so that layers can be multiplied."""
        if len(self.weights) != 1 or self.query_grid != self.key_grid:
            return False
        queries, keys = (tokens[0][_in_order(tokens[0])] for tokens in (self.queries, self.keys))
        return torch.equal(queries, keys) and bool((self.weights >= 0).all())

    def between_tokens(self) -> Tensor:
        """The weights where all tokens attend to all (`is_square`), class tokens first and then the cells row by row,
        whatever the order of the layer, and without padding, (heads, N, N).
        """
        return self.weights[0][:, _in_order(self.queries[0])][:, :, _in_order(self.keys[0])]

    @property
    def has_class_token(self) -> bool:
        """Whether a class token asks."""
        return bool((self.queries == CLASS_TOKEN).any())

    def received(self) -> Tensor:
        """How much attention each key gets from all queries that have a place, in multiples of what it would get if all
        keys got the same, (heads, H, W).
        """
        asks = (self.queries >= 0).to(self.weights.dtype)
        sums = torch.einsum("ghqk,gq->ghk", self.weights, asks)
        cells = self._on_grid(sums.transpose(0, 1))
        return cells * (cells[0].numel() / asks.sum().clamp(min=1))

    def of_class_token(self) -> Optional[Tensor]:
        """What the first class token attends to, in multiples of what each key would get if all got the same,
        (heads, H, W), or None if none asks.
        """
        group, place = self._find(CLASS_TOKEN)
        return None if group is None else self._of(group, place)

    def of_cell(self, cell: int) -> Optional[Tensor]:
        """What the query in a cell attends to, in multiples of what each of its keys would get if all got the same,
        (heads, H, W); None if nobody asks there.
        """
        group, place = self._find(cell)
        return None if group is None else self._of(group, place)

    def reach(self, cell: int) -> Optional[Tensor]:
        """Which cells of the keys' grid the query in a cell attends to at all, with any head, (H, W) booleans."""
        seen = self.of_cell(cell)
        return None if seen is None else (seen > _NOTHING).any(0)

    def shown(self) -> Tuple[Tensor, str]:
        """The map of each head that tells most, (heads, H, W), and what it is."""
        mine = self.of_class_token()
        if mine is not None:
            return mine, "attention of the class token"
        return self.received(), "attention that tokens receive"

    def _find(self, cell: int) -> Tuple[Optional[int], int]:
        found = (self.queries == cell).nonzero()
        return (None, 0) if len(found) == 0 else (int(found[0, 0]), int(found[0, 1]))

    def _of(self, group: int, place: int) -> Tensor:
        inside = int((self.keys[group] != OUTSIDE).sum())
        return self._on_grid(self.weights[group, :, place, None], group) * inside

    def _on_grid(self, values: Tensor, group: Optional[int] = None) -> Tensor:
        """Values of keys (heads, groups, keys), or of one group's, summed up in their cells (heads, H, W)."""
        keys = self.keys if group is None else self.keys[group : group + 1]
        is_placed = (keys >= 0).flatten()
        height, width = self.key_grid
        cells = values.new_zeros(len(values), height * width)
        cells.index_add_(1, keys.flatten()[is_placed], values.flatten(1)[:, is_placed])
        return cells.unflatten(1, (height, width))


def _in_order(tokens: Tensor) -> Tensor:
    """Places of the class tokens among `tokens`, then those of the cells row by row; padding has none."""
    order = tokens.argsort(stable=True)
    return order[tokens[order] != OUTSIDE]


def rollout(layers: Sequence[Attention]) -> List[Tensor]:
    """Attention through several layers (Abnar and Zuidema, arXiv 2005.00928, section 3): the mean of the heads, half of
    it replaced by the token itself for the residual, multiplied layer by layer.

    Where a class token joins between two layers, it has attended to nothing but itself before.

    Args:
        layers: In the order of the model, each with all tokens attending to all (`is_square`).

    Returns:
        After each layer how much each of its tokens has got from each token of the first, (queries, keys); rows sum to
        one. Class tokens come first.

    Raises:
        ValueError: A layer is of another kind or grid.
    """
    rolled: List[Tensor] = []
    for layer in layers:
        if not layer.is_square or layer.query_grid != layers[0].query_grid:
            raise ValueError(f"{layer.layer} does not attend from all tokens to all, on the grid of {layers[0].layer}")
        mean = layer.between_tokens().mean(0)
        mean = mean / mean.sum(-1, keepdim=True)
        own = torch.eye(len(mean), dtype=mean.dtype)
        step = (mean + own) / 2
        if not rolled:
            rolled.append(step)
            continue
        before = rolled[-1]
        if joined := len(step) - len(before):
            before = torch.block_diag(torch.eye(joined, dtype=before.dtype), before)
        rolled.append(step @ before)
    return rolled


def rollout_map(layer: Attention, rolled: Tensor) -> Tensor:
    """A layer's rollout on the picture: of the class token where there is one, else the mean of all tokens, in
    multiples of what each would get if all got the same, (H, W).
    """
    height, width = layer.query_grid
    cells = height * width
    row = rolled[0] if layer.has_class_token else rolled.mean(0)
    return row[len(row) - cells :].reshape(height, width) * cells


def rolled_together(layers: Sequence[Attention]) -> List[List[Attention]]:
    """The layers that a rollout can go through, by grid, two at least each."""
    by_grid = {}
    for layer in layers:
        if layer.is_square:
            by_grid.setdefault(layer.query_grid, []).append(layer)
    return [group for group in by_grid.values() if len(group) > 1]


# Drawing -------------------------------------------------------------------------------------------------------------

_LAYERS, _HEADS = 4, 16  # that are drawn where none are chosen
_UNIT = "times an even share"


def draw(sheet: Sheet, photo: Photo, layers: Sequence[Attention], every: bool = False) -> None:
    """Draws what the heads of layers attend to, and what single tokens do.

    Args:
        sheet: To draw on.
        photo: The picture.
        layers: At least one.
        every: Whether all layers are drawn, else some where they are many.
    """
    chosen = list(layers) if every else some_of(layers, _LAYERS)
    left_out = "" if len(chosen) == len(layers) else f" Drawn are {len(chosen)} of {len(layers)} layers (--layer)."
    sheet.heading(
        "Attention",
        "1 is what each token would get if all got the same; brighter places get more. The outline around a marked "
        f"token is as far as it attends at all.{left_out}",
    )
    for layer in chosen:
        maps, what = layer.shown()
        heads = some_of(range(layer.num_heads), _HEADS)
        panels = [Map("mean", maps.mean(0)), *(Map(f"head {head}", maps[head]) for head in heads)]
        rows, cols = layer.key_grid
        title = f"{layer.layer}: {layer.kind}, {counted(layer.num_heads, 'head')}, {rows}x{cols} keys; {what}"
        sheet.maps(title, panels, label=_UNIT, photo=photo.shown)
        asked = [_asked(layer, cell) for cell in telling_cells(layer)]
        if asked:
            what = "what the tokens at (row, column) attend to, mean of the heads"
            sheet.maps(f"{layer.layer}: {what}", asked, label=_UNIT, photo=photo.shown)


def telling_cells(layer: Attention) -> List[int]:
    """Cells in the middle of the picture and of its quarters, in whichever a query is."""
    height, width = layer.query_grid
    places = [(0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)]
    cells = [int(height * row) * width + int(width * column) for row, column in places]
    asked = set(layer.queries.flatten().tolist())
    return [cell for cell in dict.fromkeys(cells) if cell in asked]


def _asked(layer: Attention, cell: int) -> Map:
    row, column = divmod(cell, layer.query_grid[1])
    to_keys = [keys / queries for keys, queries in zip(layer.key_grid, layer.query_grid)]
    mark = ((row + 0.5) * to_keys[0] - 0.5, (column + 0.5) * to_keys[1] - 0.5)
    return Map(f"({row}, {column})", layer.of_cell(cell).mean(0), layer.reach(cell), mark)


def draw_rollout(sheet: Sheet, photo: Photo, groups: Sequence[Sequence[Attention]]) -> None:
    """Draws the rollout after each layer, of layers that stand on one grid each."""
    sheet.heading(
        "Rollout",
        "What the class token, or the mean of all tokens, has got from each place through all attention layers so far, "
        "half of each layer being its residual (arXiv 2005.00928). Other layers than attention are not followed.",
    )
    for layers in groups:
        rolled = rollout(layers)
        maps = [
            Map(short(layer.layer), rollout_map(layer, each)) for layer, each in some_of(list(zip(layers, rolled)), 12)
        ]
        rows, cols = layers[0].query_grid
        title = f"after each of {len(layers)} layers on {rows}x{cols} tokens"
        sheet.maps(title, maps, label=_UNIT, photo=photo.shown)

"""GATHER and GATHER_ND: slices picked by index."""

from tf_requant.model.graph import Tensor
from tf_requant.model.legality.site import Site

_INDEX = ("int32", "int64")


def gather(site: Site) -> None:
    """Slices along `axis`; the first `batch_dims` dimensions go hand in hand."""
    data, positions, output = site.input(0), site.input(1), site.outputs[0]
    site.same_dtype(data, output)
    site.same_params(data, output)
    if not site.dtype(positions, *_INDEX, "int16"):
        return
    axis = site.axis(site.number("axis"), len(data.shape))
    if axis is None:
        return
    rank, batch = len(positions.shape), site.number("batch_dims")
    batch += rank if batch < 0 else 0
    shared = 0 <= batch <= min(axis, rank) and data.shape[:batch] == positions.shape[:batch]
    if not site.need(shared, f"batch_dims is {site.number('batch_dims')}", "leading dimensions that both inputs share"):
        return
    _inside(site, positions, data.shape[axis])
    site.shape(output, (*data.shape[:axis], *positions.shape[batch:], *data.shape[axis + 1 :]))


def gather_nd(site: Site) -> None:
    """Slices by tuples of indices, the last dimension of the second input."""
    data, positions, output = site.input(0), site.input(1), site.outputs[0]
    site.same_dtype(data, output)
    site.same_params(data, output)
    if not site.dtype(positions, *_INDEX, "int16"):
        return
    depth = positions.shape[-1] if positions.shape else 0
    tuples = 0 < depth <= len(data.shape)
    if not site.need(tuples, f"the indices have shape {list(positions.shape)}", f"tuples of up to {len(data.shape)}"):
        return
    if positions.data is not None:
        for i in range(depth):
            _inside(site, positions.with_(data=positions.data[..., i]), data.shape[i])
    site.shape(output, (*positions.shape[:-1], *data.shape[depth:]))


def _inside(site: Site, positions: Tensor, edge: int) -> None:
    if positions.data is not None and positions.data.size:
        low, high = int(positions.data.min()), int(positions.data.max())
        site.need(0 <= low and high < edge, f"indices run from {low} to {high}", f"0 to {edge - 1}")

"""SUB: ADD with the second input's sign turned."""

from tf_requant.simulator.ops import add
from tf_requant.simulator.site import Kernel, Site


def prepare(site: Site) -> Kernel:
    """The kernel of one SUB."""
    return add.prepare(site, sign=-1)

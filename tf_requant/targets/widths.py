"""Constraints of a target's widths: of codebooks and their indices, and of what each width costs. `constraints.py` lists them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tf_requant.targets.target import Target


def codebooks_hold_signed_symmetric_weights(target: "Target") -> bool:
    """A codebook holds signed weights with zero point 0, but weight.codebook is {weight.codebook}.

    Got weight.signed {weight.signed} and weight.symmetric {weight.symmetric}.
    """
    return target.weight.codebook is None or (target.weight.signed and target.weight.symmetric)


def indices_are_no_wider_than_codes(target: "Target") -> bool:
    """A codebook of 2^b levels holds codes of weight.bits {weight.bits}, so b is no more.

    Got weight.codebook {weight.codebook}.
    """
    return target.weight.codebook is None or max(target.weight.codebook) <= max(target.weight.bits)


def costs_are_given_for_every_width(target: "Target") -> bool:
    """A table of weight.costs gives each width of the weights {widths} one cost, but they are {weight.costs}."""
    wanted = {str(b) for b in target.weight.widths}
    return all(set(table) == wanted and all(cost > 0 for cost in table.values()) for table in target.weight.costs.values())


def costs_have_names_of_their_own(target: "Target") -> bool:
    """--budget=weights:SHARE and --budget=activations:SHARE limit bytes, so weight.costs may not be called {weight.costs}."""
    return not {"weights", "activations"} & target.weight.costs.keys()

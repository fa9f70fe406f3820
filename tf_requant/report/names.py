"""Names as people read them."""


def short_name(name: str) -> str:
    """The first of the names that a converter joined into one: the op's own.

    >>> short_name("block/Conv2D;block/bias")
    'block/Conv2D'
    """
    return name.split(";")[0]

"""Integer and affine arithmetic on numpy arrays: the leaf layer, without I/O."""

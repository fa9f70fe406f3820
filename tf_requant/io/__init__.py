"""Files in and out: TFLite flatbuffers, TF1 graphs, images and arrays."""

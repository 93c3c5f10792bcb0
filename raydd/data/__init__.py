"""Real data in: sources on disk, packing into shards with an index, which samples when, and transforms.

`sources` names data sets as they lie on disk, `pack` turns one into WebDataset shards with an `index`, `reader` gives
their decoded images, `plan` says which of them a round sees, and `transforms` what a network sees of them.
Nothing is imported here, so that packing processes load neither torch nor each other's needs.
"""

"""How figures come about: verified first, in interleaved blocks, with intervals."""

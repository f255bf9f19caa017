"""The alphabet of tensor shapes used in annotations, and the array types that carry them.

`Float[Tensor, "rows cols"]` is documentation that tests can check: tests/conftest.py turns the checks
on, the product never pays for them. One letter or word means one thing everywhere:

    batch     independent sequences                 position  places in a sequence
    hidden    width of the residual stream          vocab     entries of the vocabulary
    out, in   rows and columns of a linear weight   heads     query heads
    kv        key/value heads                       head      width of one head
    rows cols any matrix                            group     weights sharing one scale
    blocks    quantization blocks                   bytes     packed bytes
    words     packed words of 32 bits               groups    groups in a row of a matrix
    turning   features of a head with a position    used      experts that a token takes

A leading underscore leaves a size free: parts of one tensor may differ in it.
"""

from jaxtyping import Bool, Float, Int, Integer, Shaped, UInt8

__all__ = ["Bool", "Float", "Int", "Integer", "Shaped", "UInt8"]

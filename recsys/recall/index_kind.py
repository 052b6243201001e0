"""The kinds of vector index. Importing this module does not load FAISS."""

from enum import StrEnum


class Kind(StrEnum):
    """How vectors are stored and searched. `effort` of a search is what the comment says."""

    FLAT = "flat"  # exact; no effort
    SQ8 = "sq8"  # every 8-bit code; no effort
    HNSW = "hnsw"  # graph; candidates kept while searching
    IVF_FLAT = "ivf_flat"  # inverted lists; lists visited
    IVF_SQ8 = "ivf_sq8"  # inverted lists of 8-bit codes; lists visited
    IVF_PQ = "ivf_pq"  # SIMD scan of 4-bit product codes, the best rescored by 8-bit codes; lists visited
    IVF_RABITQ = "ivf_rabitq"  # scan of 1-bit codes, the best rescored by 8-bit codes; lists visited

"""Documents that are there twice: exactly, or nearly.

Exact: the same text but for white space around it, by BLAKE2b. Near: MinHash with locality-sensitive hashing (Broder
1997; the parameters of FineWeb, Penedo et al. 2024, arXiv:2406.17557: 5-grams of normalised words, 14 bands of 8
hashes, so that two documents that share 75% of their 5-grams are found with probability 1 − (1 − 0.75⁸)¹⁴ = 77%, 85% of
them with 98.8%), carried out by datatrove: signatures lie sorted on disk and are merged as streams, and only the pairs
found are in memory.

Of documents that belong together the first one stays. (datatrove keeps any; so its last stage is replaced here.)
Cost: about 2 microseconds a word for signatures; then 14 bands, each 10 microseconds a document, in parallel.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from smidgen.data.corpus.extra import needed
from smidgen.data.corpus.filters import words

#: Bands of the signatures: so many independent pieces of work for `match_band`.
BANDS = 14
_HASHES, _GRAM = 8, 5
_SIGNATURES, _PAIRS, _CLUSTERS = "signatures", "pairs", "clusters"


def exact_hash(text: str) -> str:
    """What exact duplicates have in common."""
    return hashlib.blake2b(text.strip().encode("utf-8"), digest_size=16).hexdigest()


def write_signatures(texts: Iterable[str], part: int, folder: Path) -> None:
    """Keep the MinHash signatures of a part's documents."""
    data: Any = needed("datatrove.data")
    documents = (data.Document(text=text, id=str(number)) for number, text in enumerate(texts))
    minhash = _minhash()
    minhash.MinhashDedupSignature(str(folder / _SIGNATURES), _config(), language=words()).run(documents, rank=part)


def match_band(band: int, folder: Path) -> None:
    """Find the pairs of all parts' documents that agree in one band."""
    step = _minhash().MinhashDedupBuckets(str(folder / _SIGNATURES), str(folder / _PAIRS), config=_config())
    step.run(rank=band, world_size=BANDS)


def duplicates(exact_hashes: Sequence[Sequence[str]], folder: Path | None) -> list[tuple[set[int], set[int]]]:
    """For each part, which of its documents are exact and which near duplicates of an earlier one.

    exact_hashes: of each part's documents.  folder: where all bands are matched; None to look for exact ones only.
    """
    near = [{} for _ in exact_hashes] if folder is None else _cluster(len(exact_hashes), folder)
    seen_hashes: set[bytes] = set()
    seen_clusters: set[int] = set()
    found: list[tuple[set[int], set[int]]] = []
    for hashes, clusters in zip(exact_hashes, near, strict=True):
        exact, nearly = set[int](), set[int]()
        for number, text in enumerate(map(bytes.fromhex, hashes)):
            cluster = clusters.get(number)
            if text in seen_hashes:
                exact.add(number)
            elif cluster in seen_clusters:
                nearly.add(number)
            seen_hashes.add(text)
            if cluster is not None:
                seen_clusters.add(cluster)
        found.append((exact, nearly))
    return found


def _cluster(parts: int, folder: Path) -> list[dict[int, int]]:
    """For each part, the cluster of each of its documents that is like another one."""
    step = _minhash().MinhashDedupCluster(
        str(folder / _PAIRS), str(folder / _CLUSTERS), config=_config(), save_cluster_id=True
    )
    step.run()
    clusters: dict[int, dict[int, int]] = defaultdict(dict)
    for path in sorted((folder / _CLUSTERS).glob("*.clusters")):
        clusters[int(path.stem)] = dict(struct.iter_unpack("<2I", path.read_bytes()))
    return [clusters[part] for part in range(parts)]


def _minhash() -> Any:
    needed("loguru").logger.disable("datatrove")
    module = needed("datatrove.pipeline.dedup.minhash")
    module.tqdm = _silent  # its bar would run through ours
    return module


def _silent(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items


def _config() -> Any:
    sha1 = needed("datatrove.utils.hashing").HashConfig(hash_fc="sha1")  # the other choice breaks with xxhash 4
    return _minhash().MinhashConfig(_GRAM, BANDS, _HASHES, hash_config=sha1)

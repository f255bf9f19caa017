"""Text at scale: from files and data sets to shards of tokens that training reads in a fixed order.

    documents   read one after another from text, JSONL, Parquet and data sets on the Hugging Face hub
    filters     by language and by simple rules of quality
    duplicates  what is there twice, exactly or nearly
    prepare     all of that in parts, in parallel, and each part tokenized into one shard
    shards      the folder that comes out: shards with checksums, and an index
    order       which tokens make up which row of training, as a pure function of its number

What a well-kept library does is left to it. datatrove (Hugging Face, Apache-2.0; it made FineWeb) has the Gopher rules,
and MinHash with its signatures on disk, so that memory does not bound it as it does datasketch. datasets streams from
the hub; pyarrow, which it needs anyway, reads Parquet, where polars would be a second engine of that size. py3langid
knows 97 languages in 5 MB and without pickle; lingua takes 96 MB, and fastText's models have to be downloaded.
datatrove's own tokenizer step is not used: it has no checksums and does not resume within a file. All these packages
are in the extra `data`; plain text and JSONL with neither filters nor deduplication need none of them. Torch-free.
"""

"""Says what a file is when it is not what it was given as: the difference between a shrug and an answer."""

PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "is a GGUF file"),
    (b"PK\x03\x04", "is a zip archive, perhaps a PyTorch checkpoint, which smidgen never unpickles"),
    (b"\x80\x02", "is a Python pickle, which smidgen never opens because it can run code"),
    (b"\x80\x03", "is a Python pickle, which smidgen never opens because it can run code"),
    (b"\x80\x04", "is a Python pickle, which smidgen never opens because it can run code"),
    (b"\x80\x05", "is a Python pickle, which smidgen never opens because it can run code"),
    (b"version https://git-lfs", "is a Git LFS pointer, so the model itself was not downloaded (git lfs pull)"),
    (b"\x1f\x8b", "is a gzip archive that has to be unpacked first"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"lmgg", "is a llama.cpp file from before GGUF, to be converted again"),
    (b"fmgg", "is a llama.cpp file from before GGUF, to be converted again"),
    (b"tjgg", "is a llama.cpp file from before GGUF, to be converted again"),
)


def describe_foreign(start: bytes, wanted: str = "b'GGUF'") -> str:
    """A verb phrase for a file that starts with these bytes (some tens are enough) instead of `wanted`."""
    for prefix, description in PREFIXES:
        if start.startswith(prefix):
            return description
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, perhaps the error message of a failed download"
    if len(start) > 8 and start[8:9] == b"{" and start[5:8] == b"\0\0\0":
        return "is a safetensors file"
    if text.startswith(b"{"):
        return "is JSON text"
    return f"starts with {start[:4]!r} instead of {wanted}"

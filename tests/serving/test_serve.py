"""Who may be let in by a server. (What it answers is tested from outside, in tests/cli/test_serve.py.)"""

import pytest

from smidgen.errors import SmidgenError
from smidgen.serving.serve import check_exposure, is_loopback


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_a_key_is_needed_beyond_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    check_exposure(host, "key")
    if not local:
        with pytest.raises(SmidgenError, match="--api-key"):
            check_exposure(host, None)

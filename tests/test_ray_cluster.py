"""Where there is no Ray, that is said at once. (With one: tests/distillation/team and tests/serving.)"""

import pytest

from smidgen.errors import SmidgenError
from smidgen.ray_cluster import connected


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9", "nobody at:99999", "nonsense"])
def test_where_nobody_answers_that_is_said_in_a_line(address: str) -> None:
    with pytest.raises(SmidgenError, match=r"^no Ray answers at .+: .+\. Start one, or say --ray local\.$") as found:
        with connected(address):
            pass
    assert "\n" not in str(found.value)

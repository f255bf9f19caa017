"""For the reference on the site: there `name: what it is` and `Raises …` in docstrings begin lines of their own."""

import re
from typing import Any

from griffe import Extension, Object

_ENTRY = re.compile(r"(?:\n *|(?<=\.)  )(?=(?:[a-z_]+(?:, [a-z_]+)*: |Raises ))")


class Lines(Extension):
    """Ends the line before each such entry, in Markdown's way."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Change the docstring of what was just read."""
        if obj.docstring is not None:
            obj.docstring.value = _ENTRY.sub("  \n", obj.docstring.value)

"""Making models smaller by leaving parts out: each module is score → plan → apply, ending in a derived model."""

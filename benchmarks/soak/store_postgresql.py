"""Workers of a store in PostgreSQL are killed, and so is the server."""

from benchmarks.soak.stores import campaign_of

CAMPAIGN = campaign_of("postgresql")

"""Workers of a store in SQLite are killed."""

from benchmarks.soak.stores import campaign_of

CAMPAIGN = campaign_of("sqlite")

"""The ledger of visits, which is the queue, and the outbox of their alerts."""

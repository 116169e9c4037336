-- Of which instrument a visit is that was stored without the service; frozen.

ALTER TABLE "StoreLedger" ADD COLUMN instrument TEXT;

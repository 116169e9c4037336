-- Of which instrument a visit is that was stored without the service; forced sources that were taken back, by visit; frozen.

ALTER TABLE "StoreLedger" ADD COLUMN instrument TEXT;

CREATE INDEX "IDX_DiaForcedSourceWithdrawn_visit" ON "DiaForcedSourceWithdrawn" (visit, detector);

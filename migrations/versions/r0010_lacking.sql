-- The forced sources whose flux lacks part of its light; frozen.

CREATE INDEX "IDX_DiaForcedSourceFlags_lacking" ON "DiaForcedSourceFlags" ("diaObjectId") WHERE (flags & 67) <> 0;

-- Functions with a cap on their rows for the read-only role (they run with the owner's rights on the tables).

CREATE OR REPLACE FUNCTION object_light_curve(object_id bigint, max_rows integer DEFAULT 10000)
RETURNS SETOF light_curve LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT * FROM light_curve WHERE "diaObjectId" = object_id AND "timeWithdrawnMjdTai" IS NULL
  ORDER BY "midpointMjdTai" LIMIT least(greatest(max_rows, 0), 100000)
$$;

CREATE OR REPLACE FUNCTION visit_sources(visit_id bigint, detector_id integer, max_rows integer DEFAULT 10000)
RETURNS SETOF "DiaSource" LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT * FROM "DiaSource" WHERE visit = visit_id AND detector = detector_id AND "timeWithdrawnMjdTai" IS NULL
  ORDER BY "diaSourceId" LIMIT least(greatest(max_rows, 0), 100000)
$$;

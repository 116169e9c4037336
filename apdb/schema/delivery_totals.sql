-- How much was published in all, kept by the transactions that publish: to add it up would cost more the longer a survey runs.
-- One statement counts once, however many rows it changes; rows that are deleted later stay counted.

CREATE OR REPLACE FUNCTION count_delivered() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM after) THEN
        RETURN NULL;
    END IF;
    EXECUTE format(
        'INSERT INTO %I."DeliveryTotals" AS t (name, alerts, visits, "shutterSeconds") SELECT ''published'', d.* FROM ('
        'SELECT coalesce(sum(a.count * ((a."publishedAt" IS NOT NULL)::int - (b."publishedAt" IS NOT NULL)::int)), 0) AS alerts, '
        'coalesce(sum((a."secondsSinceShutterClose" IS NOT NULL)::int - (b."secondsSinceShutterClose" IS NOT NULL)::int), 0) AS visits, '
        'coalesce(sum(coalesce(a."secondsSinceShutterClose", 0) - coalesce(b."secondsSinceShutterClose", 0)), 0) AS seconds '
        'FROM after a JOIN before b USING (id)) d WHERE (d.alerts, d.visits, d.seconds) <> (0, 0, 0) '
        'ON CONFLICT (name) DO UPDATE SET alerts = t.alerts + excluded.alerts, visits = t.visits + excluded.visits, '
        '"shutterSeconds" = t."shutterSeconds" + excluded."shutterSeconds"', TG_TABLE_SCHEMA
    );
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER delivered AFTER UPDATE ON "AlertOutbox" REFERENCING OLD TABLE AS before NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION count_delivered();

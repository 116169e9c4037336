-- How many visits are in each state, and how many alerts were stored, dropped, published by night: kept by the transactions that change
-- them. To count would cost more the longer a survey runs. Each transaction appends its change, so that none waits for another; the
-- changes of a name are added up, and now and then put together to one row (apdb.tallies).

CREATE OR REPLACE FUNCTION tally_entered_visits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %I."Tally" (name, change) SELECT ''visits:'' || state, count(*) FROM after GROUP BY state', TG_TABLE_SCHEMA
    );
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tally_changed_visit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I."Tally" (name, change) VALUES (''visits:'' || $1, -1), (''visits:'' || $2, 1)', TG_TABLE_SCHEMA)
    USING OLD.state, NEW.state;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tally_deleted_visits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %I."Tally" (name, change) SELECT ''visits:'' || state, -count(*) FROM before GROUP BY state', TG_TABLE_SCHEMA
    );
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tally_no_visits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %I."Tally" WHERE starts_with(name, ''visits:'')', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tally_stored_alerts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %I."Tally" (name, night, change) SELECT t.name, t.night, t.change FROM (SELECT '
        'floor("shutterCloseMjdTai" - 0.5)::int AS night, sum(count) AS alerts, count(*) AS visits, '
        'sum("topicCount") AS in_topic, coalesce(sum(count) FILTER (WHERE "droppedAt" IS NOT NULL), 0) AS dropped, '
        'coalesce(sum(count) FILTER (WHERE "publishedAt" IS NOT NULL), 0) AS published FROM after GROUP BY 1) n '
        'CROSS JOIN LATERAL (VALUES (''alerts:stored'', NULL, n.alerts), (''alerts:in_topic'', NULL, n.in_topic), '
        '(''alerts:dropped'', NULL, n.dropped), (''alerts:published'', NULL, n.published), (''night:visits'', n.night, n.visits), '
        '(''night:alerts'', n.night, n.alerts), (''night:published'', n.night, n.published)) t(name, night, change) '
        'WHERE t.change <> 0', TG_TABLE_SCHEMA
    );
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tally_changed_alerts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM after) THEN
        RETURN NULL;
    END IF;
    EXECUTE format(
        'INSERT INTO %I."Tally" (name, night, change) SELECT t.name, t.night, t.change FROM (SELECT '
        'floor(a."shutterCloseMjdTai" - 0.5)::int AS night, sum(a."topicCount" - b."topicCount") AS in_topic, '
        'sum(a.count * ((a."droppedAt" IS NOT NULL)::int - (b."droppedAt" IS NOT NULL)::int)) AS dropped, '
        'sum(a.count * ((a."publishedAt" IS NOT NULL)::int - (b."publishedAt" IS NOT NULL)::int)) AS published '
        'FROM after a JOIN before b USING (id) GROUP BY 1) n CROSS JOIN LATERAL (VALUES (''alerts:in_topic'', NULL, n.in_topic), '
        '(''alerts:dropped'', NULL, n.dropped), (''alerts:published'', NULL, n.published), (''night:published'', n.night, n.published)) '
        't(name, night, change) WHERE t.change <> 0', TG_TABLE_SCHEMA
    );
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER tally_entered AFTER INSERT ON "VisitLedger" REFERENCING NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION tally_entered_visits();

CREATE OR REPLACE TRIGGER tally_changed AFTER UPDATE OF state ON "VisitLedger" FOR EACH ROW
WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION tally_changed_visit();

CREATE OR REPLACE TRIGGER tally_deleted AFTER DELETE ON "VisitLedger" REFERENCING OLD TABLE AS before
FOR EACH STATEMENT EXECUTE FUNCTION tally_deleted_visits();

CREATE OR REPLACE TRIGGER tally_emptied AFTER TRUNCATE ON "VisitLedger" FOR EACH STATEMENT EXECUTE FUNCTION tally_no_visits();

CREATE OR REPLACE TRIGGER tally_stored AFTER INSERT ON "AlertOutbox" REFERENCING NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION tally_stored_alerts();

CREATE OR REPLACE TRIGGER tally_delivered AFTER UPDATE ON "AlertOutbox" REFERENCING OLD TABLE AS before NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION tally_changed_alerts();

-- Every change of a visit's state, or of its attempt, is a row of VisitEvent, in the transaction that makes it.

CREATE OR REPLACE FUNCTION note_visit_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %I."VisitEvent" ("transaction", visit, detector, state, attempt, priority, "errorCode") '
        'VALUES (pg_current_xact_id()::text::bigint, $1, $2, $3, $4, $5, $6)', TG_TABLE_SCHEMA
    ) USING NEW.visit, NEW.detector, NEW.state, NEW.attempt, NEW.priority, NEW."errorCode";
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER visit_entered AFTER INSERT ON "VisitLedger" FOR EACH ROW EXECUTE FUNCTION note_visit_event();

CREATE OR REPLACE TRIGGER visit_changed AFTER UPDATE OF state ON "VisitLedger" FOR EACH ROW
WHEN (OLD.state <> NEW.state OR OLD.attempt <> NEW.attempt) EXECUTE FUNCTION note_visit_event();

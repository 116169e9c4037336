-- Says in the metadata that another client wrote rows, which our ledgers do not know. A statement of ours costs one comparison.

CREATE OR REPLACE FUNCTION note_other_writer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO %I.metadata (name, value) VALUES (''status:other-writers'', ''yes'') ON CONFLICT DO NOTHING', TG_TABLE_SCHEMA
    );
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER other_writer BEFORE INSERT ON "DiaSource" FOR EACH STATEMENT
WHEN (current_setting('application_name') <> 'alertprod') EXECUTE FUNCTION note_other_writer();

CREATE OR REPLACE TRIGGER other_writer BEFORE INSERT ON "DiaForcedSource" FOR EACH STATEMENT
WHEN (current_setting('application_name') <> 'alertprod') EXECUTE FUNCTION note_other_writer();

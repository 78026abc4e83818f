"""Event triggers that note what each schema-changing statement does, inside its own transaction.

The notes go to an unlogged table, so that they add nothing to the log that is measured. All is removed afterwards.
PostgreSQL documentation, chapter "Event Triggers".
"""

from __future__ import annotations

SCHEMA = "lakebranch_watch"
INSTALL = f"""
CREATE SCHEMA {SCHEMA};
CREATE UNLOGGED TABLE {SCHEMA}.note (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, pid int, event text, tag text, statement text, facts jsonb);
CREATE FUNCTION {SCHEMA}.locks() RETURNS jsonb LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT jsonb_agg(jsonb_build_array(relation::bigint, mode)) FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted AND relation >= 16384
$$;
CREATE FUNCTION {SCHEMA}.began() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$ BEGIN
    INSERT INTO {SCHEMA}.note (at, pid, event, tag, facts)
    SELECT clock_timestamp(), pg_backend_pid(), tg_event, tg_tag, jsonb_build_object('locks', {SCHEMA}.locks());
END $$;
CREATE FUNCTION {SCHEMA}.ended() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$ BEGIN
    INSERT INTO {SCHEMA}.note (at, pid, event, tag, statement, facts)
    SELECT clock_timestamp(), pg_backend_pid(), tg_event, tg_tag, current_query(), jsonb_build_object(
        'locks', {SCHEMA}.locks(),
        'indexes', (SELECT jsonb_agg(jsonb_build_array(i.indexrelid::regclass, i.indrelid::bigint))
            FROM pg_event_trigger_ddl_commands() c JOIN pg_index i ON i.indexrelid = c.objid
            WHERE c.classid = 'pg_class'::regclass AND tg_tag = 'CREATE INDEX'),
        'defaults', (SELECT jsonb_agg(jsonb_build_array(a.attrelid::bigint, a.attnum))
            FROM pg_event_trigger_ddl_commands() c JOIN pg_attribute a ON a.attrelid = c.objid
            WHERE c.classid = 'pg_class'::regclass AND tg_tag = 'ALTER TABLE' AND a.attnum > 0
            AND (a.atthasdef OR a.attidentity <> '')));
END $$;
CREATE FUNCTION {SCHEMA}.rewritten() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $$ BEGIN
    INSERT INTO {SCHEMA}.note (at, pid, event, tag, facts)
    SELECT clock_timestamp(), pg_backend_pid(), tg_event, tg_tag, jsonb_build_object(
        'table', pg_event_trigger_table_rewrite_oid()::bigint, 'reason', pg_event_trigger_table_rewrite_reason());
END $$;
CREATE EVENT TRIGGER {SCHEMA}_began ON ddl_command_start EXECUTE FUNCTION {SCHEMA}.began();
CREATE EVENT TRIGGER {SCHEMA}_ended ON ddl_command_end EXECUTE FUNCTION {SCHEMA}.ended();
CREATE EVENT TRIGGER {SCHEMA}_rewritten ON table_rewrite EXECUTE FUNCTION {SCHEMA}.rewritten();
ALTER EVENT TRIGGER {SCHEMA}_began ENABLE ALWAYS;
ALTER EVENT TRIGGER {SCHEMA}_ended ENABLE ALWAYS;
ALTER EVENT TRIGGER {SCHEMA}_rewritten ENABLE ALWAYS;
"""
REMOVE = f"""
DROP EVENT TRIGGER IF EXISTS {SCHEMA}_began;
DROP EVENT TRIGGER IF EXISTS {SCHEMA}_ended;
DROP EVENT TRIGGER IF EXISTS {SCHEMA}_rewritten;
DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
"""
NOTES = f"SELECT extract(epoch FROM at)::float8, pid, event, tag, statement, facts FROM {SCHEMA}.note ORDER BY id"
REWRITE_REASONS = {1: "logged or unlogged", 2: "a default for each row", 4: "another type", 8: "another access method"}
"""AT_REWRITE_* in event_trigger.h."""

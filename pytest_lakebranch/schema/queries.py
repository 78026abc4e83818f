"""The catalog in SQL: one query for each kind of thing.

Each gives ``kind``, ``name``, ``of`` and columns that are facts: their names are the facts' words (``_`` is a space),
NULL means that the fact does not hold. A JSON object becomes one fact for each of its keys.
PostgreSQL documentation, chapter 53 "System Catalogs". PostgreSQL 15 to 18.
"""

from __future__ import annotations

_OURS = (
    "{0} NOT IN ('pg_catalog', 'information_schema') AND {0} NOT LIKE 'pg\\_toast%' AND {0} NOT LIKE 'pg\\_temp\\_%'"
)
_NAMESPACE = _OURS.format("n.nspname")


def _own(catalog: str, oid: str, types: str = "'e'") -> str:
    """Made by a user, not by an extension."""
    return (
        f"NOT EXISTS (SELECT FROM pg_depend own WHERE own.classid = '{catalog}'::regclass AND own.objid = {oid} "
        f"AND own.deptype IN ({types}))"
    )


def _comment(catalog: str, oid: str, number: str = "0") -> str:
    return (
        f"(SELECT nullif(d.description, '') FROM pg_description d WHERE d.classoid = '{catalog}'::regclass "
        f"AND d.objoid = {oid} AND d.objsubid = {number}) AS comment"
    )


def _grants(acl: str, kind: str, owner: str) -> str:
    """Rights by grantee; the owner's where they are not all. ``kind``: of acldefault(), which NULL stands for."""
    return f"{_rights(acl, kind, owner)} AS grants_to"


def _rights(acl: str, kind: str, owner: str) -> str:
    default = f"acldefault('{kind}', {owner})"
    return f"""(SELECT jsonb_object_agg(g.who, g.rights) FROM (
        {_others(f"coalesce({acl}, {default})", owner)} UNION ALL
        SELECT 'the owner', 'all but ' || string_agg(DISTINCT usual.privilege_type, ', ')
        FROM aclexplode({default}) usual WHERE {acl} IS NOT NULL AND usual.grantee = {owner} AND NOT EXISTS (
            SELECT FROM aclexplode({acl}) given
            WHERE given.grantee = {owner} AND given.privilege_type = usual.privilege_type)
        HAVING count(*) > 0) g)"""


def _others(acl: str, owner: str) -> str:
    return f"""SELECT CASE given.grantee WHEN 0 THEN 'public' ELSE coalesce(r.rolname, given.grantee::text) END AS who,
            string_agg(DISTINCT given.privilege_type || CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE ''
            END, ', ') AS rights
        FROM aclexplode({acl}) given LEFT JOIN pg_roles r ON r.oid = given.grantee WHERE given.grantee <> {owner}
        GROUP BY 1"""


_HARMLESS = (
    "'host', 'port', 'dbname', 'schema_name', 'table_name', 'column_name', 'filename', 'format', 'header', "
    "'delimiter', 'null', 'encoding', 'fetch_size', 'batch_size', 'use_remote_estimate', 'updatable', 'truncatable', "
    "'async_capable', 'extensions'"
)


def _foreign(options: str) -> str:
    """Options of something foreign: values only of those that can hold no secret, whatever the wrapper is."""
    return f"""(SELECT string_agg(o.option_name || CASE WHEN o.option_name IN ({_HARMLESS})
        THEN ' ' || quote_literal(o.option_value) ELSE '' END, ', ' ORDER BY o.option_name)
        FROM pg_options_to_table({options}) o)"""


_ATTRIBUTE_COMMENTS = """(SELECT jsonb_object_agg(a.attname, d.description)
        FROM pg_attribute a JOIN pg_description d ON d.objoid = a.attrelid AND d.classoid = 'pg_class'::regclass
        AND d.objsubid = a.attnum WHERE a.attrelid = {0} AND a.attnum > 0) AS comment_on"""
_OWNER = "pg_get_userbyid({0}) AS owner"

DATABASE = f"""
SELECT 'database' AS kind, 'itself' AS name, '' AS of,
    (SELECT nullif(d.description, '') FROM pg_shdescription d WHERE d.classoid = 'pg_database'::regclass
        AND d.objoid = b.oid) AS comment,
    (SELECT jsonb_object_agg(CASE s.setrole WHEN 0 THEN 'everybody' ELSE pg_get_userbyid(s.setrole) END,
            (SELECT string_agg(CASE WHEN split_part(e, '=', 1) LIKE '%.%' THEN split_part(e, '=', 1) ELSE e END, ', '
                ORDER BY e) FROM unnest(s.setconfig) e))
        FROM pg_db_role_setting s WHERE s.setdatabase = b.oid) AS settings_of,
    {_grants("b.datacl", "d", "b.datdba")}
FROM pg_database b WHERE b.datname = current_database()
"""
SCHEMAS = f"""
SELECT 'schema' AS kind, format('%I', n.nspname) AS name, '' AS of, {_OWNER.format("n.nspowner")},
    {_comment("pg_namespace", "n.oid")}, {_grants("n.nspacl", "n", "n.nspowner")}
FROM pg_namespace n WHERE {_NAMESPACE} AND {_own("pg_namespace", "n.oid")}
"""
EXTENSIONS = f"""
SELECT 'extension' AS kind, format('%I', x.extname) AS name, '' AS of, x.extversion AS version,
    format('%I', n.nspname) AS schema, {_comment("pg_extension", "x.oid")}
FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.extname <> 'plpgsql'
"""
COLLATIONS = f"""
SELECT 'collation' AS kind, format('%I.%I', n.nspname, c.collname) AS name, '' AS of,
    c.collprovider::text AS provider,
    coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate) AS locale,
    CASE WHEN c.collctype <> c.collcollate THEN c.collctype END AS ctype, to_jsonb(c) ->> 'collicurules' AS rules,
    CASE WHEN c.collisdeterministic THEN NULL ELSE 'yes' END AS nondeterministic,
    {_OWNER.format("c.collowner")}, {_comment("pg_collation", "c.oid")}
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE {_NAMESPACE} AND {_own("pg_collation", "c.oid")}
"""
ENUMS = f"""
SELECT 'enum' AS kind, format('%I.%I', n.nspname, t.typname) AS name, '' AS of,
    (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = t.oid) AS values,
    {_OWNER.format("t.typowner")}, {_comment("pg_type", "t.oid")}, {_grants("t.typacl", "T", "t.typowner")}
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'e' AND {_NAMESPACE} AND {_own("pg_type", "t.oid")}
"""
DOMAINS = f"""
SELECT 'domain' AS kind, format('%I.%I', n.nspname, t.typname) AS name, '' AS of,
    format_type(t.typbasetype, t.typtypmod) AS type, CASE WHEN t.typnotnull THEN 'yes' END AS not_null,
    t.typdefault AS default,
    (SELECT string_agg(format('%I %s', c.conname, pg_get_constraintdef(c.oid)), '; ' ORDER BY c.conname)
        FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c') AS constraints,
    (SELECT jsonb_object_agg(c.conname, d.description) FROM pg_constraint c JOIN pg_description d ON d.objoid = c.oid
        AND d.classoid = 'pg_constraint'::regclass WHERE c.contypid = t.oid) AS comment_on,
    CASE WHEN t.typcollation <> b.typcollation THEN t.typcollation::regcollation::text END AS collation,
    {_OWNER.format("t.typowner")}, {_comment("pg_type", "t.oid")}, {_grants("t.typacl", "T", "t.typowner")}
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_type b ON b.oid = t.typbasetype
WHERE t.typtype = 'd' AND {_NAMESPACE} AND {_own("pg_type", "t.oid")}
"""
RANGES = f"""
SELECT 'range' AS kind, format('%I.%I', n.nspname, t.typname) AS name, '' AS of,
    format_type(r.rngsubtype, NULL) AS subtype, nullif(r.rngsubdiff::oid, 0)::regproc::text AS difference,
    {_OWNER.format("t.typowner")}, {_comment("pg_type", "t.oid")}, {_grants("t.typacl", "T", "t.typowner")}
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_range r ON r.rngtypid = t.oid
WHERE t.typtype = 'r' AND {_NAMESPACE} AND {_own("pg_type", "t.oid")}
"""
TYPES = f"""
SELECT 'type' AS kind, format('%I.%I', n.nspname, t.typname) AS name, '' AS of,
    (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS attributes,
    CASE WHEN t.typtype = 'b' THEN t.typinput::text END AS input, {_ATTRIBUTE_COMMENTS.format("t.typrelid")},
    {_OWNER.format("t.typowner")}, {_comment("pg_type", "t.oid")}, {_grants("t.typacl", "T", "t.typowner")}
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE (t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid) OR c.relkind = 'c')
    AND {_NAMESPACE} AND {_own("pg_type", "t.oid")}
"""
SEQUENCES = f"""
SELECT 'sequence' AS kind, format('%I.%I', n.nspname, c.relname) AS name, '' AS of,
    format_type(s.seqtypid, NULL) AS type, s.seqstart::text AS start, s.seqincrement::text AS increment,
    s.seqmin::text AS minimum, s.seqmax::text AS maximum, nullif(s.seqcache, 1)::text AS cache,
    CASE WHEN s.seqcycle THEN 'yes' END AS cycle,
    (SELECT format('%I.%I.%I', m.nspname, o.relname, a.attname) FROM pg_depend d
        JOIN pg_class o ON o.oid = d.refobjid JOIN pg_namespace m ON m.oid = o.relnamespace
        JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
        AND d.refclassid = 'pg_class'::regclass) AS owned_by,
    {_OWNER.format("c.relowner")}, {_comment("pg_class", "c.oid")}, {_grants("c.relacl", "s", "c.relowner")}
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_NAMESPACE} AND {_own("pg_class", "c.oid", "'e', 'i'")}
"""
SERVERS = f"""
SELECT 'foreign server' AS kind, format('%I', s.srvname) AS name, '' AS of, format('%I', w.fdwname) AS wrapper,
    s.srvtype AS type, s.srvversion AS version,
    {_foreign("s.srvoptions")} AS options,
    (SELECT jsonb_object_agg(m.usename, coalesce((SELECT string_agg(o.option_name, ', ' ORDER BY o.option_name)
        FROM pg_options_to_table(m.umoptions) o), 'there is one')) FROM pg_user_mappings m WHERE m.srvid = s.oid)
    AS user_mapping_for,
    {_OWNER.format("s.srvowner")}, {_comment("pg_foreign_server", "s.oid")}, {_grants("s.srvacl", "S", "s.srvowner")}
FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE {_own("pg_foreign_server", "s.oid")}
"""
_RELATION = f"""{_OWNER.format("c.relowner")}, array_to_string(c.reloptions, ', ') AS options,
    {_comment("pg_class", "c.oid")}, {_grants("c.relacl", "r", "c.relowner")}
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"""
TABLES = f"""
SELECT CASE c.relkind WHEN 'f' THEN 'foreign table' ELSE 'table' END AS kind,
    format('%I.%I', n.nspname, c.relname) AS name, '' AS of,
    CASE c.relpersistence WHEN 'u' THEN 'yes' END AS unlogged, pg_get_partkeydef(c.oid) AS partitioned,
    CASE WHEN c.relispartition THEN 'partition of' ELSE 'inherits' END AS parentage,
    (SELECT string_agg(format('%I.%I', m.nspname, p.relname), ', ' ORDER BY i.inhseqno) FROM pg_inherits i
        JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace m ON m.oid = p.relnamespace
        WHERE i.inhrelid = c.oid) AS parents,
    pg_get_expr(c.relpartbound, c.oid) AS bounds,
    CASE WHEN c.relrowsecurity THEN 'enabled' END AS row_security,
    CASE WHEN c.relforcerowsecurity THEN 'yes' END AS row_security_forced,
    CASE c.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing' WHEN 'i' THEN 'index' END AS replica_identity,
    nullif((SELECT m.amname FROM pg_am m WHERE m.oid = c.relam), 'heap') AS access_method,
    (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace) AS tablespace,
    (SELECT s.srvname FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid)
    AS server, (SELECT {_foreign("f.ftoptions")} FROM pg_foreign_table f WHERE f.ftrelid = c.oid) AS foreign_options,
    {_RELATION} WHERE c.relkind IN ('r', 'p', 'f') AND {_NAMESPACE} AND {_own("pg_class", "c.oid")}
"""
VIEWS = f"""
SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END AS kind,
    format('%I.%I', n.nspname, c.relname) AS name, '' AS of, pg_get_viewdef(c.oid) AS definition,
    CASE WHEN NOT c.relispopulated THEN 'no' END AS populated,
    (SELECT jsonb_object_agg(a.attname, pg_get_expr(d.adbin, d.adrelid)) FROM pg_attrdef d JOIN pg_attribute a
        ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = c.oid) AS default_of,
    (SELECT jsonb_object_agg(told.attname, told.rights) FROM (SELECT a.attname,
            (SELECT string_agg(format('%s: %s', e.key, e.value), '; ' ORDER BY e.key)
            FROM jsonb_each_text({_rights("a.attacl", "c", "c.relowner")}) e) AS rights
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attacl IS NOT NULL) told
        WHERE told.rights IS NOT NULL) AS grants_on,
    {_ATTRIBUTE_COMMENTS.format("c.oid")}, {_RELATION} WHERE c.relkind IN ('v', 'm') AND {_NAMESPACE}
    AND {_own("pg_class", "c.oid")}
"""
COLUMNS = f"""
SELECT 'column' AS kind, format('%I.%I.%I', n.nspname, c.relname, a.attname) AS name,
    format('%I.%I', n.nspname, c.relname) AS of, format_type(a.atttypid, a.atttypmod) AS type,
    CASE WHEN NOT a.attnotnull THEN NULL
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n'
            AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated) THEN 'not valid' ELSE 'yes' END AS not_null,
    CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default,
    CASE a.attgenerated WHEN 's' THEN 'stored: ' WHEN 'v' THEN 'virtual: ' END || pg_get_expr(d.adbin, d.adrelid)
    AS generated,
    CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
    CASE WHEN s.seqrelid IS NOT NULL THEN format('%s start %s, increment %s, %s to %s, cache %s%s',
        s.seqrelid::regclass, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
        CASE WHEN s.seqcycle THEN ', cycle' END) END AS identity_sequence,
    CASE WHEN s.relacl IS NOT NULL THEN {_rights("s.relacl", "s", "s.relowner")} END AS sequence_grants_to,
    CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END AS collation,
    CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external'
        WHEN 'm' THEN 'main' ELSE 'extended' END END AS storage,
    CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
    CASE WHEN to_jsonb(a) ->> 'attstattarget' <> '-1' THEN to_jsonb(a) ->> 'attstattarget' END AS statistics,
    {_foreign("a.attfdwoptions")} AS options, array_to_string(a.attoptions, ', ') AS settings,
    {_comment("pg_class", "c.oid", "a.attnum")},
    CASE WHEN a.attinhcount > 0 THEN (SELECT array_agg(format('%I.%I.%I', m.nspname, p.relname, a.attname))
        FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace m ON m.oid = p.relnamespace
        WHERE i.inhrelid = c.oid) END AS follows,
    CASE WHEN a.attacl IS NOT NULL THEN {_rights("a.attacl", "c", "c.relowner")} END AS grants_to
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN LATERAL (SELECT s.*, k.relacl, k.relowner FROM pg_depend q JOIN pg_sequence s ON s.seqrelid = q.objid
        JOIN pg_class k ON k.oid = q.objid WHERE a.attidentity <> '' AND q.classid = 'pg_class'::regclass
        AND q.deptype = 'i' AND q.refclassid = 'pg_class'::regclass AND q.refobjid = c.oid
        AND q.refobjsubid = a.attnum) s ON true
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND {_NAMESPACE}
    AND {_own("pg_class", "c.oid")}
"""
CONSTRAINTS = f"""
SELECT 'constraint' AS kind, format('%I.%I.%I', n.nspname, c.relname, k.conname) AS name,
    format('%I.%I', n.nspname, c.relname) AS of, pg_get_constraintdef(k.oid) AS definition,
    CASE WHEN k.contype = 'f' THEN (SELECT string_agg(DISTINCT t.tgrelid::regclass::text, ', ') FROM pg_trigger t
        WHERE t.tgconstraint = k.oid AND t.tgenabled = 'D') END AS disabled_on,
    array_to_string(x.reloptions, ', ') AS index_options, CASE WHEN i.indisclustered THEN 'yes' END AS clustered,
    CASE WHEN i.indisreplident THEN 'yes' END AS replica_identity,
    (SELECT p.spcname FROM pg_tablespace p WHERE p.oid = x.reltablespace) AS index_tablespace,
    {_comment("pg_class", "x.oid").removesuffix(" AS comment")} AS index_comment, {_comment("pg_constraint", "k.oid")}
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON k.contype IN ('p', 'u', 'x') AND i.indexrelid = k.conindid
    LEFT JOIN pg_class x ON x.oid = i.indexrelid
WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND k.conparentid = 0 AND k.conislocal AND {_NAMESPACE}
    AND {_own("pg_class", "c.oid")}
"""
INDEXES = f"""
SELECT 'index' AS kind, format('%I.%I.%I', n.nspname, t.relname, c.relname) AS name,
    format('%I.%I', n.nspname, t.relname) AS of, pg_get_indexdef(c.oid) AS definition,
    CASE WHEN NOT i.indisvalid THEN 'yes' END AS invalid, CASE WHEN i.indisclustered THEN 'yes' END AS clustered,
    CASE WHEN i.indisreplident THEN 'yes' END AS replica_identity, {_comment("pg_class", "c.oid")}
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE NOT c.relispartition AND {_NAMESPACE} AND {_own("pg_class", "t.oid")}
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x'))
"""
STATISTICS = f"""
SELECT 'statistics' AS kind, format('%I.%I.%I', n.nspname, c.relname, s.stxname) AS name,
    format('%I.%I', n.nspname, c.relname) AS of, pg_get_statisticsobjdef(s.oid) AS definition,
    {_comment("pg_statistic_ext", "s.oid")}
FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_NAMESPACE} AND {_own("pg_class", "c.oid")}
"""
TRIGGERS = f"""
SELECT 'trigger' AS kind, format('%I.%I.%I', n.nspname, c.relname, t.tgname) AS name,
    format('%I.%I', n.nspname, c.relname) AS of, pg_get_triggerdef(t.oid) AS definition,
    CASE t.tgenabled WHEN 'D' THEN 'disabled' WHEN 'A' THEN 'always' WHEN 'R' THEN 'on replicas' END AS fires,
    {_comment("pg_trigger", "t.oid")}
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND {_NAMESPACE} AND {_own("pg_class", "c.oid")}
"""
RULES = f"""
SELECT 'rule' AS kind, format('%I.%I.%I', n.nspname, c.relname, r.rulename) AS name,
    format('%I.%I', n.nspname, c.relname) AS of, pg_get_ruledef(r.oid) AS definition,
    nullif(r.ev_enabled::text, 'O') AS fires, {_comment("pg_rewrite", "r.oid")}
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.rulename <> '_RETURN' AND {_NAMESPACE} AND {_own("pg_class", "c.oid")}
"""
POLICIES = f"""
SELECT 'policy' AS kind, format('%I.%I.%I', n.nspname, c.relname, p.polname) AS name,
    format('%I.%I', n.nspname, c.relname) AS of,
    CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
        ELSE 'all' END AS for,
    CASE WHEN NOT p.polpermissive THEN 'yes' END AS restrictive,
    (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r)::text END, ', ' ORDER BY r)
        FROM unnest(p.polroles) r) AS roles,
    pg_get_expr(p.polqual, p.polrelid) AS using, pg_get_expr(p.polwithcheck, p.polrelid) AS with_check,
    {_comment("pg_policy", "p.oid")}
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_NAMESPACE} AND {_own("pg_class", "c.oid")}
"""
FUNCTIONS = f"""
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
    format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name, '' AS of,
    CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE (
        SELECT format('SFUNC %s, STYPE %s, INITCOND %s, FINALFUNC %s, COMBINEFUNC %s, KIND %s', a.aggtransfn,
            format_type(a.aggtranstype, NULL), a.agginitval, a.aggfinalfn, a.aggcombinefn, a.aggkind)
        FROM pg_aggregate a WHERE a.aggfnoid = p.oid) END AS definition,
    {_OWNER.format("p.proowner")}, {_comment("pg_proc", "p.oid")}, {_grants("p.proacl", "f", "p.proowner")}
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE {_NAMESPACE} AND {_own("pg_proc", "p.oid", "'e', 'i'")}
"""
EVENT_TRIGGERS = f"""
SELECT 'event trigger' AS kind, format('%I', e.evtname) AS name, '' AS of, e.evtevent AS event,
    e.evtfoid::regprocedure::text AS function, array_to_string(e.evttags, ', ') AS tags,
    CASE e.evtenabled WHEN 'D' THEN 'disabled' WHEN 'A' THEN 'always' WHEN 'R' THEN 'on replicas' END AS fires,
    {_OWNER.format("e.evtowner")}, {_comment("pg_event_trigger", "e.oid")}
FROM pg_event_trigger e WHERE {_own("pg_event_trigger", "e.oid")}
"""
PUBLICATIONS = f"""
SELECT 'publication' AS kind, format('%I', p.pubname) AS name, '' AS of,
    CASE WHEN p.puballtables THEN 'all' ELSE (SELECT string_agg(concat(format('%I.%I', n.nspname, c.relname),
            (SELECT format(' (%s)', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)) FROM pg_attribute a
                WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs) HAVING count(*) > 0),
            ' WHERE ' || pg_get_expr(r.prqual, r.prrelid)), ', ' ORDER BY n.nspname, c.relname)
        FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE r.prpubid = p.oid) END AS tables,
    (SELECT string_agg(quote_ident(n.nspname), ', ' ORDER BY n.nspname) FROM pg_publication_namespace m
        JOIN pg_namespace n ON n.oid = m.pnnspid WHERE m.pnpubid = p.oid) AS schemas,
    CASE WHEN p.pubviaroot THEN 'yes' END AS via_partition_root,
    nullif(to_jsonb(p) ->> 'pubgencols', 'n') AS generated_columns,
    concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
        CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END) AS publishes,
    {_OWNER.format("p.pubowner")}, {_comment("pg_publication", "p.oid")}
FROM pg_publication p
"""
DEFAULT_PRIVILEGES = f"""
SELECT 'default privileges' AS kind, format('of %I for %s%s', pg_get_userbyid(d.defaclrole),
        CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
            WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END,
        CASE WHEN n.nspname IS NOT NULL THEN format(' in %I', n.nspname) END) AS name, '' AS of,
    (SELECT jsonb_object_agg(g.who, g.rights) FROM ({_others("d.defaclacl", "d.defaclrole")}) g) AS grants_to
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
"""
ALL = (
    DATABASE,
    SCHEMAS,
    EXTENSIONS,
    COLLATIONS,
    ENUMS,
    DOMAINS,
    RANGES,
    TYPES,
    SEQUENCES,
    SERVERS,
    TABLES,
    VIEWS,
    COLUMNS,
    CONSTRAINTS,
    INDEXES,
    STATISTICS,
    TRIGGERS,
    RULES,
    POLICIES,
    FUNCTIONS,
    EVENT_TRIGGERS,
    PUBLICATIONS,
    DEFAULT_PRIVILEGES,
)

-- An awkward tenant, a neighbour that it refers to, and owners and grants of every kind. ROLE_ is replaced by the test's prefix.
CREATE SCHEMA neighbour;
CREATE TABLE neighbour.countries (code text PRIMARY KEY);
INSERT INTO neighbour.countries VALUES ('DE'), ('FR'), ('JP');
CREATE TABLE neighbour.refers (id int PRIMARY KEY, note text);
CREATE FUNCTION neighbour.twin(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE neighbour.twin(a int, OUT b text) LANGUAGE plpgsql AS $$ BEGIN b := a; END $$;
REVOKE EXECUTE ON FUNCTION neighbour.twin(int, text) FROM PUBLIC;
INSERT INTO neighbour.refers SELECT i, 'note ' || i FROM pg_catalog.generate_series(1, 50) i;

CREATE SCHEMA "My ""Ten'ant";
COMMENT ON SCHEMA "My ""Ten'ant" IS 'a; b
CREATE SCHEMA "My ""Ten''ant";
it''s';
SET search_path = "My ""Ten'ant";
CREATE TYPE mood AS ENUM ('sad', 'o''k', 'HAPPY');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE FUNCTION add(a int, VARIADIC rest int[] DEFAULT '{}') RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN a; END $$;
CREATE FUNCTION secret() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE PROCEDURE do_it(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x + 1; END $$;
CREATE FUNCTION calls_twin() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT neighbour.twin(1, 'x'); END;
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION same(pair, pair) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a = ($2).a';
CREATE OPERATOR === (LEFTARG = pair, RIGHTARG = pair, FUNCTION = same);
CREATE TABLE accounts (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number serial,
    name text NOT NULL,
    "Mixed Case" mood DEFAULT 'HAPPY',
    country text REFERENCES neighbour.countries,
    size positive,
    blob bytea,
    extra jsonb,
    twice int GENERATED ALWAYS AS (2) STORED
);
COMMENT ON COLUMN accounts."Mixed Case" IS 'odd';
INSERT INTO accounts (name, country, size, blob, extra)
    SELECT 'name' || E'\t\n\\.\\' || i, 'FR', i, '\x00ff', '{"a": [1]}' FROM pg_catalog.generate_series(1, 400) i;
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT i, '2026-01-01'::date + i FROM pg_catalog.generate_series(1, 365) i;
CREATE VIEW "Odd View" AS SELECT a.id, c.code FROM accounts a LEFT JOIN neighbour.countries c ON c.code = a.country;
CREATE MATERIALIZED VIEW summary AS SELECT c.code, count(*) AS n FROM neighbour.countries c LEFT JOIN accounts a ON a.country = c.code GROUP BY 1;
CREATE MATERIALIZED VIEW plain AS SELECT id FROM accounts;
CREATE INDEX ON accounts (lower(name));
CREATE SEQUENCE "Free" START 42;
SELECT nextval('"Free"');
CREATE STATISTICS stats ON name, country FROM accounts;
CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = pg_catalog.simple);
CREATE TEXT SEARCH CONFIGURATION conf (COPY = pg_catalog.simple);
CREATE COLLATION coll FROM "C";
CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION trig();
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON accounts FOR SELECT TO ROLE_reader USING (name = current_user);
CREATE TABLE "a.b" ("q""q" int, "-x" text);
INSERT INTO "a.b" VALUES (1, '--');

ALTER SCHEMA "My ""Ten'ant" OWNER TO ROLE_owner;
DO $$ DECLARE o record; BEGIN
    FOR o IN SELECT format('ALTER %s %s OWNER TO ROLE_owner', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, oid::regclass) AS s
             FROM pg_class WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'accounts'::regclass) AND relkind IN ('r', 'p', 'v', 'm')
    LOOP EXECUTE o.s; END LOOP;
    FOR o IN SELECT format('ALTER ROUTINE %s OWNER TO ROLE_owner', oid::regprocedure) AS s FROM pg_proc WHERE pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'accounts'::regclass)
    LOOP EXECUTE o.s; END LOOP;
END $$;
-- By all their arguments the two are the same.
CREATE PROCEDURE twin(a int, OUT b text) LANGUAGE plpgsql AS $$ BEGIN b := a; END $$;
CREATE PROCEDURE twin(a int, b text) LANGUAGE plpgsql AS $$ BEGIN END $$;
ALTER PROCEDURE twin(IN int, OUT text) OWNER TO ROLE_owner;
ALTER PROCEDURE twin(IN int, IN text) OWNER TO ROLE_other;
REVOKE EXECUTE ON PROCEDURE twin(IN int, IN text) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE twin(IN int, IN text) TO ROLE_app;
ALTER SEQUENCE "Free" OWNER TO ROLE_other;
ALTER TYPE mood OWNER TO ROLE_owner;
ALTER DOMAIN positive OWNER TO ROLE_other;
ALTER TYPE pair OWNER TO ROLE_owner;
ALTER TYPE span OWNER TO ROLE_other;
ALTER OPERATOR === (pair, pair) OWNER TO ROLE_other;
ALTER STATISTICS stats OWNER TO ROLE_other;
ALTER TEXT SEARCH DICTIONARY dict OWNER TO ROLE_owner;
ALTER TEXT SEARCH CONFIGURATION conf OWNER TO ROLE_owner;
ALTER COLLATION coll OWNER TO ROLE_owner;
GRANT USAGE ON SCHEMA neighbour TO ROLE_owner;
GRANT SELECT, REFERENCES ON neighbour.countries TO ROLE_owner;

GRANT USAGE ON SCHEMA "My ""Ten'ant" TO ROLE_app, ROLE_reader, ROLE_other;
GRANT SELECT, INSERT ON accounts TO ROLE_app WITH GRANT OPTION;
SET ROLE ROLE_app;
GRANT SELECT ON accounts TO ROLE_reader;
RESET ROLE;
GRANT UPDATE (name, "Mixed Case"), REFERENCES (id) ON accounts TO ROLE_other;
GRANT SELECT (id) ON parts TO PUBLIC;
GRANT ALL ON parts TO ROLE_app;
REVOKE DELETE, TRUNCATE ON parts_1 FROM ROLE_owner;
GRANT SELECT ON "Odd View", summary TO PUBLIC;
GRANT USAGE, SELECT ON SEQUENCE "Free" TO ROLE_app;
GRANT USAGE ON SEQUENCE accounts_number_seq TO ROLE_app;
REVOKE EXECUTE ON FUNCTION secret() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secret() TO ROLE_reader;
REVOKE ALL ON FUNCTION trig() FROM PUBLIC, ROLE_owner;
GRANT EXECUTE ON FUNCTION total(int) TO ROLE_app;
REVOKE USAGE ON TYPE mood FROM PUBLIC;
GRANT USAGE ON TYPE mood TO ROLE_app WITH GRANT OPTION;
REVOKE USAGE ON TYPE pair FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE ROLE_owner IN SCHEMA "My ""Ten'ant" GRANT SELECT ON TABLES TO ROLE_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE ROLE_owner IN SCHEMA "My ""Ten'ant" GRANT USAGE ON SEQUENCES TO ROLE_app WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE ROLE_other IN SCHEMA "My ""Ten'ant" GRANT EXECUTE ON FUNCTIONS TO ROLE_app;
ALTER DEFAULT PRIVILEGES FOR ROLE ROLE_other IN SCHEMA "My ""Ten'ant" GRANT USAGE ON TYPES TO ROLE_app;
SET search_path = '';

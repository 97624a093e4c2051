-- One of everything that is compared. ROLE_ is replaced by a prefix that no other test has.
CREATE SCHEMA t;
COMMENT ON SCHEMA t IS 'a tenant';
SET search_path = t;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int DEFAULT 7 CONSTRAINT above_zero CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE COLLATION plain FROM "C";
CREATE FUNCTION double(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a * 2';
CREATE PROCEDURE do_it(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x + 1; END $$;
CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION same(pair, pair) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a = ($2).a';
CREATE OPERATOR === (LEFTARG = pair, RIGHTARG = pair, FUNCTION = same, COMMUTATOR = ===);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE SEQUENCE numbers START 10 INCREMENT 5;
SELECT nextval('numbers');
CREATE TABLE accounts (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL DEFAULT 'x', note text, score float8, small float4, ratio numeric,
    price numeric(10, 2), blob bytea, at timestamptz, lasts interval, doc jsonb, feeling mood DEFAULT 'ok', amount money, tags text[],
    point pair, reach span, code char(5), status varchar(10) CONSTRAINT known CHECK (status IN ('new', 'old')),
    email text COLLATE "C" CONSTRAINT one_email UNIQUE, twice int GENERATED ALWAYS AS (2) STORED
);
COMMENT ON TABLE accounts IS 'who pays';
COMMENT ON COLUMN accounts.note IS 'free text';
COMMENT ON CONSTRAINT known ON accounts IS 'two states';
INSERT INTO accounts (name, note, score, small, ratio, price, blob, at, lasts, doc, amount, tags, point, reach, code, status, email) VALUES
    ('Ada', '', 0.1, 0.1, 1.0, 10, '\x00ff', '2026-11-21 01:02:03.000004+00', '1 day', '{"a": 1.0}', '10.50', '{a,NULL}', '(1,b)', '[1,2)', 'ab', 'new', 'ada@x'),
    ('Bob', NULL, 0, 1, 2.50, 20, '\x', '2026-11-21', '24:00:00', '[1, 2]', '0', '{}', '(2,)', 'empty', 'cd', 'old', 'bob@x'),
    ('Cé', E'a\tb\\\n', 'NaN', 'Infinity', 3, 30, NULL, 'infinity', '1 mon', 'null', '-1', NULL, NULL, NULL, NULL, NULL, NULL);
CREATE INDEX with_note ON accounts (note) WHERE note IS NOT NULL;
CREATE INDEX by_lower ON accounts (lower(name));
COMMENT ON INDEX by_lower IS 'for searches';
CREATE STATISTICS related ON name, status FROM accounts;
CREATE TRIGGER touched BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON accounts FOR SELECT TO ROLE_app USING (name = current_user);
CREATE TABLE orders (
    id bigserial PRIMARY KEY, account int CONSTRAINT of_account REFERENCES accounts ON DELETE CASCADE, placed date, kind positive
);
INSERT INTO orders (account, placed, kind) SELECT 1 + i % 3, '2026-01-01'::date + i, 1 + i FROM pg_catalog.generate_series(1, 20) i;
CREATE RULE ignored AS ON DELETE TO orders WHERE false DO INSTEAD NOTHING;
CREATE TABLE twins (a int, b text);
INSERT INTO twins VALUES (1, 'x'), (1, 'x'), (2, 'y'), (3, 'z');
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_early PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT i, '2026-01-01'::date + i FROM pg_catalog.generate_series(1, 300) i;
CREATE TRIGGER touched BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE parent (a int);
CREATE TABLE child (own text) INHERITS (parent);
-- A column that a restored child has in another place.
ALTER TABLE parent ADD COLUMN later int DEFAULT 5;
INSERT INTO child (a, own) VALUES (1, 'x');
CREATE VIEW names AS SELECT id, name FROM accounts;
CREATE MATERIALIZED VIEW summary AS SELECT status, count(*) AS n FROM accounts GROUP BY 1;
CREATE MATERIALIZED VIEW waiting AS SELECT id FROM accounts WITH NO DATA;
CREATE TEXT SEARCH CONFIGURATION words (COPY = pg_catalog.simple);

ALTER SCHEMA t OWNER TO ROLE_owner;
ALTER TABLE accounts OWNER TO ROLE_owner;
ALTER TABLE orders OWNER TO ROLE_owner;
GRANT USAGE ON SCHEMA t TO ROLE_app;
GRANT SELECT ON accounts TO ROLE_app;
GRANT UPDATE (note) ON accounts TO ROLE_app;
ALTER DEFAULT PRIVILEGES FOR ROLE ROLE_owner IN SCHEMA t GRANT SELECT ON TABLES TO ROLE_app;
DO $$ BEGIN EXECUTE format('ALTER ROLE ROLE_app IN DATABASE %I SET statement_timeout = ''5s''', current_database()); END $$;
SET search_path = '';

CREATE TYPE order_status AS ENUM ('draft', 'placed', 'paid', 'shipped', 'delivered', 'returned, damaged', 'can''t deliver');
CREATE DOMAIN email AS text CONSTRAINT email_has_one_at CHECK (VALUE ~ '^[^@\s]+@[^@\s]+$');
CREATE DOMAIN cents AS bigint DEFAULT 0 NOT NULL CONSTRAINT cents_are_not_negative CHECK (VALUE >= 0);
CREATE DOMAIN currency AS char(3) COLLATE "C" CONSTRAINT currency_is_iso CHECK (VALUE ~ '^[A-Z]{3}$');
CREATE TYPE address AS (street text, city text, postcode text, country char(2));
CREATE TYPE "Money Amount" AS (amount cents, currency currency);
CREATE TYPE temperature_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE COLLATION "Byte order" (provider = libc, locale = 'C');

CREATE FUNCTION normalise(name text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN lower(btrim(name));

CREATE FUNCTION near(a numeric, b numeric) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT
    AS 'SELECT abs(a - b) < 0.01';
CREATE OPERATOR ~~~ (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = near, COMMUTATOR = ~~~);

CREATE SEQUENCE invoice_numbers START 1000 INCREMENT 5 MAXVALUE 999999 CYCLE CACHE 1;
CREATE SEQUENCE "Never Used" AS smallint MINVALUE -10 START -3;

-- What PostgreSQL 18 brought, in the schema of awkward.sql.
CREATE TABLE "My ""Ten'ant".since_18 (
    id int4range, valid_at daterange, amount int, twice int GENERATED ALWAYS AS (amount * 2) VIRTUAL,
    "Must" text CONSTRAINT "it's needed" NOT NULL NO INHERIT, CONSTRAINT unchecked CHECK (amount < 0) NOT ENFORCED,
    PRIMARY KEY (id, valid_at WITHOUT OVERLAPS)
);
INSERT INTO "My ""Ten'ant".since_18 (id, valid_at, amount, "Must")
    SELECT '[1,2)', pg_catalog.daterange('2026-01-01'::date + i, '2026-01-01'::date + i + 1), i, 'x' FROM pg_catalog.generate_series(1, 20) i;
CREATE TABLE "My ""Ten'ant".refers_18 (
    id int4range, valid_at daterange, note text, country text REFERENCES neighbour.countries NOT ENFORCED,
    FOREIGN KEY (id, PERIOD valid_at) REFERENCES "My ""Ten'ant".since_18 (id, PERIOD valid_at)
);
INSERT INTO "My ""Ten'ant".refers_18 VALUES ('[1,2)', '[2026-01-05,2026-01-09)', NULL, 'XX');
ALTER TABLE "My ""Ten'ant".refers_18 ADD CONSTRAINT "from now on" NOT NULL note NOT VALID;
COMMENT ON CONSTRAINT "from now on" ON "My ""Ten'ant".refers_18 IS 'older ones have none';
ALTER TABLE "My ""Ten'ant".parts ADD FOREIGN KEY (id) REFERENCES "My ""Ten'ant".accounts NOT VALID;
ALTER TABLE "My ""Ten'ant".since_18 OWNER TO ROLE_owner;
ALTER TABLE "My ""Ten'ant".refers_18 OWNER TO ROLE_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE ROLE_owner GRANT SELECT ON LARGE OBJECTS TO ROLE_reader;

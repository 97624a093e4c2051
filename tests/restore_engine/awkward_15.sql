-- What PostgreSQL 15 brought, in the schema of awkward.sql.
CREATE TABLE "My ""Ten'ant".since_15 (a int, b int, rounded numeric(3, -2), UNIQUE NULLS NOT DISTINCT (a, b));
INSERT INTO "My ""Ten'ant".since_15 VALUES (1, NULL, 12345);
CREATE VIEW "My ""Ten'ant".invoker WITH (security_invoker) AS SELECT a FROM "My ""Ten'ant".since_15;
ALTER TABLE "My ""Ten'ant".since_15 OWNER TO ROLE_owner;
ALTER VIEW "My ""Ten'ant".invoker OWNER TO ROLE_owner;

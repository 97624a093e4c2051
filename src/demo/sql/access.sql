ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_documents ON documents TO hf_demo_app USING (owner = current_user) WITH CHECK (owner = current_user);
CREATE POLICY "read, but not secrets" ON documents AS RESTRICTIVE FOR SELECT TO PUBLIC USING (title !~ '^secret');
ALTER TABLE feature_flags ENABLE ROW LEVEL SECURITY;
ALTER TABLE employees ENABLE ROW LEVEL SECURITY;
ALTER TABLE employees FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody ON employees FOR SELECT USING (EXISTS (SELECT FROM customers));

ALTER TABLE shipments OWNER TO hf_demo_app;
ALTER TABLE "Ünïcode" OWNER TO hf_demo_app;
ALTER TABLE "quo""te" OWNER TO hf_demo_readonly;
ALTER TABLE events_2024 OWNER TO hf_demo_app;
ALTER VIEW open_orders OWNER TO hf_demo_app;
ALTER FUNCTION order_total(bigint) OWNER TO hf_demo_app;
ALTER AGGREGATE geometric_mean(double precision) OWNER TO hf_demo_app;
ALTER PROCEDURE close_stale_orders(timestamptz, bigint) OWNER TO hf_demo_app;
ALTER TYPE "Money Amount" OWNER TO hf_demo_app;
ALTER DOMAIN currency OWNER TO hf_demo_readonly;
ALTER SEQUENCE invoice_numbers OWNER TO hf_demo_app;

GRANT SELECT, INSERT, UPDATE, DELETE ON customers, products, price_periods, orders, "Order Items", invoices, events, notes, sessions TO hf_demo_app;
GRANT SELECT ON orders, products, monthly_revenue, "Customers & Orders", open_orders TO hf_demo_readonly;
GRANT SELECT (id, name, search_name, tags), UPDATE (tags) ON customers TO hf_demo_readonly;
GRANT SELECT (name) ON employees TO PUBLIC;
GRANT SELECT ON invoices TO hf_demo_app WITH GRANT OPTION;
GRANT TRUNCATE, REFERENCES, TRIGGER ON feature_flags TO hf_demo_readonly;
GRANT USAGE ON SEQUENCE invoice_numbers TO hf_demo_readonly;
GRANT USAGE, SELECT ON SEQUENCE orders_id_seq TO hf_demo_app;
REVOKE EXECUTE ON FUNCTION forget_customer(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION forget_customer(bigint) TO hf_demo_app WITH GRANT OPTION;
REVOKE EXECUTE ON PROCEDURE close_stale_orders(timestamptz, bigint) FROM PUBLIC;
REVOKE USAGE ON TYPE order_status FROM PUBLIC;
GRANT USAGE ON TYPE order_status TO hf_demo_app, hf_demo_readonly;
REVOKE SELECT ON shipments FROM hf_demo_app;

ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO hf_demo_readonly;
ALTER DEFAULT PRIVILEGES FOR ROLE hf_demo_app IN SCHEMA {schema} GRANT EXECUTE ON FUNCTIONS TO hf_demo_readonly;
ALTER DEFAULT PRIVILEGES FOR ROLE hf_demo_app IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO hf_demo_readonly WITH GRANT OPTION;
GRANT USAGE ON SCHEMA {schema} TO hf_demo_readonly;
GRANT USAGE, CREATE ON SCHEMA {schema} TO hf_demo_app;

-- A right that was passed on: its grantor is not the owner.
SET LOCAL ROLE hf_demo_app;
GRANT SELECT ON invoices TO hf_demo_readonly;
RESET ROLE;

COMMENT ON SCHEMA {schema} IS 'A tenant of the sample platform';
COMMENT ON TABLE customers IS E'People who buy.\nIt''s the "root" of most things \\ here.';
COMMENT ON COLUMN customers.search_name IS 'generated';
COMMENT ON COLUMN "Order Items"."Unit Price" IS 'In cents, without tax';
COMMENT ON TYPE order_status IS 'In the order of a happy life, then the others';
COMMENT ON DOMAIN email IS 'Good enough';
COMMENT ON CONSTRAINT email_has_one_at ON DOMAIN email IS 'RFC 5321 is longer';
COMMENT ON CONSTRAINT one_price_at_a_time ON price_periods IS 'Neither two nor none';
COMMENT ON FUNCTION order_total(bigint) IS 'Sum of the lines';
COMMENT ON AGGREGATE geometric_mean(double precision) IS 'For prices';
COMMENT ON TRIGGER audit ON customers IS 'Who changed what';
COMMENT ON POLICY own_documents ON documents IS 'Each their own';
COMMENT ON RULE keep_the_log ON audit_log IS 'Logs are for ever';
COMMENT ON INDEX customers_newsletter IS 'Partial';
COMMENT ON SEQUENCE invoice_numbers IS 'Steps of five';
COMMENT ON VIEW "Customers & Orders" IS 'Über alles';
COMMENT ON MATERIALIZED VIEW monthly_revenue IS 'Refreshed at night';
COMMENT ON STATISTICS orders_customer_status IS 'They go together';

CREATE FUNCTION order_total(wanted bigint) RETURNS bigint LANGUAGE sql STABLE
    BEGIN ATOMIC
        SELECT coalesce(sum(line_total), 0)::bigint FROM "Order Items" WHERE order_id = wanted;
    END;

CREATE FUNCTION customer_report(minimum bigint DEFAULT 0, VARIADIC wanted order_status[] DEFAULT '{paid,shipped}')
    RETURNS TABLE (customer text, orders bigint, spent numeric)
    LANGUAGE plpgsql STABLE ROWS 50 SET search_path FROM CURRENT AS $body$
BEGIN
    -- Quotes ' and " and backslashes \ stay as they are.
    RETURN QUERY
        SELECT c.name, count(*), sum((o.total).amount)
        FROM customers c JOIN orders o ON o.customer_id = c.id
        WHERE o.status = ANY (wanted) GROUP BY c.id HAVING sum((o.total).amount) >= minimum;
END
$body$;

CREATE FUNCTION forget_customer(IN wanted bigint, OUT notes_removed bigint, OUT sessions_removed bigint)
    LANGUAGE plpgsql SECURITY DEFINER COST 500 SET search_path FROM CURRENT AS $body$
BEGIN
    DELETE FROM customer_notes WHERE customer_id = wanted;
    GET DIAGNOSTICS notes_removed = ROW_COUNT;
    DELETE FROM sessions WHERE customer_id = wanted;
    GET DIAGNOSTICS sessions_removed = ROW_COUNT;
END
$body$;

CREATE PROCEDURE close_stale_orders(older_than timestamptz, INOUT closed bigint DEFAULT 0)
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
BEGIN
    UPDATE orders SET status = 'can''t deliver' WHERE status = 'placed' AND placed_at < older_than;
    GET DIAGNOSTICS closed = ROW_COUNT;
END
$body$;

CREATE FUNCTION add_logarithm(state double precision[], value double precision) RETURNS double precision[]
    LANGUAGE sql IMMUTABLE STRICT AS 'SELECT ARRAY[state[1] + ln(value), state[2] + 1]';
CREATE FUNCTION exponential_of_mean(state double precision[]) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT AS 'SELECT exp(state[1] / nullif(state[2], 0))';
CREATE AGGREGATE geometric_mean(double precision) (
    SFUNC = add_logarithm, STYPE = double precision[], FINALFUNC = exponential_of_mean, INITCOND = '{0,0}'
);

CREATE FUNCTION write_audit_log() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO audit_log (operation, customer_id, before, after)
    VALUES (TG_OP, coalesce(NEW.id, OLD.id), to_jsonb(OLD) - 'photo', to_jsonb(NEW) - 'photo');
    RETURN NULL;
END
$body$;
CREATE FUNCTION refuse_empty_order() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
BEGIN
    IF NEW.status >= 'paid' AND NOT EXISTS (SELECT FROM "Order Items" WHERE order_id = NEW.id) THEN
        RAISE EXCEPTION 'order % has no items', NEW.id;
    END IF;
    RETURN NULL;
END
$body$;
CREATE FUNCTION count_changes() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM count(*) FROM changed;
    RETURN NULL;
END
$body$;
CREATE FUNCTION lower_kind() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.detail := coalesce(NEW.detail, '{}'::jsonb);
    RETURN NEW;
END
$body$;
CREATE TRIGGER audit AFTER INSERT OR DELETE OR UPDATE OF email, credit ON customers FOR EACH ROW EXECUTE FUNCTION write_audit_log();
CREATE CONSTRAINT TRIGGER "no empty orders" AFTER INSERT OR UPDATE ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.status >= 'paid') EXECUTE FUNCTION refuse_empty_order();
CREATE TRIGGER counted AFTER UPDATE ON products REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_changes();
CREATE TRIGGER filled BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION lower_kind();
CREATE TRIGGER asleep BEFORE UPDATE ON employees FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE employees DISABLE TRIGGER asleep;
UPDATE customers SET credit = credit + 5 WHERE id % 40 = 0;

ALTER TABLE invoices ADD CONSTRAINT paid_in_this_century CHECK (paid_at >= '2000-01-01Z') NOT VALID;

CREATE RULE keep_the_log AS ON DELETE TO audit_log DO INSTEAD NOTHING;

CREATE VIEW open_orders WITH (security_barrier) AS
    SELECT o.id, o.customer_id, o.status, (o.total).amount AS cents FROM orders o WHERE o.status IN ('draft', 'placed')
    WITH LOCAL CHECK OPTION;
CREATE VIEW "Customers & Orders" ("Customer", "how many", "€") AS
    SELECT c.name, count(o.id), sum(order_total(o.id)) / 100.0
    FROM customers c LEFT JOIN open_orders o ON o.customer_id = c.id GROUP BY c.id;
CREATE VIEW staff AS
    WITH RECURSIVE chain AS (
        SELECT id, name, 1 AS depth FROM employees WHERE manager_id IS NULL
        UNION ALL SELECT e.id, e.name, depth + 1 FROM employees e JOIN chain ON e.manager_id = chain.id
    ) SELECT * FROM chain;
CREATE FUNCTION hire() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO employees (name, manager_id) VALUES (NEW.name, 1);
    RETURN NEW;
END
$body$;
CREATE TRIGGER hire INSTEAD OF INSERT ON staff FOR EACH ROW EXECUTE FUNCTION hire();
CREATE MATERIALIZED VIEW monthly_revenue AS
    SELECT date_trunc('month', placed_at AT TIME ZONE 'UTC')::date AS month, status, count(*) AS orders,
        sum((total).amount) AS cents, geometric_mean((total).amount::double precision) FILTER (WHERE (total).amount > 0) AS typical
    FROM orders GROUP BY 1, 2;
CREATE UNIQUE INDEX monthly_revenue_month ON monthly_revenue (month, status);
CREATE MATERIALIZED VIEW not_yet_filled AS SELECT * FROM monthly_revenue WITH NO DATA;

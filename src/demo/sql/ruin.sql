-- A bad afternoon: an UPDATE without its WHERE, a DELETE with the wrong one, a TRUNCATE in the wrong window, two DROPs.
UPDATE customers SET email = 'oops' || id || '@example.com', name = 'undefined';
DELETE FROM "Order Items" WHERE order_id > 10;
TRUNCATE events;
DROP TABLE shipments CASCADE;
DROP FUNCTION order_total(bigint) CASCADE;
